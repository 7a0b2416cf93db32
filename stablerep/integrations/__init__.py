"""Edges: one platform library a file, each imported only by the stage that needs it."""
