"""Learn vision encoders from synthetic images: captions in, a served encoder out.

Importing this package imports nothing heavy. The nouns are the sub-packages (captions, groups, shards, batches, losses, models,
training, probes, endpoint); the verbs are `stablerep.stages`, and `stablerep --help` lists them.
"""

__version__ = "0.1.0"
