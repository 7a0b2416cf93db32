"""Groups: a caption and the images a text-to-image model makes of it. Imports nothing heavy by itself."""
