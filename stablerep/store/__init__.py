"""Where everything is kept: a folder of objects under file://, s3:// or gs://, written atomically."""

from stablerep.store.store import Store

__all__ = ["Store"]
