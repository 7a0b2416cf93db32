"""The files of an exported model in a folder of this machine."""

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from stablerep.store import Store


@contextmanager
def local_folder(uri: str) -> Generator[Path]:
    """The folder itself where it is local, else a copy for as long as the context lasts.

    Args:
        uri: a path or a store URI of `models/<model_id>`.

    Raises:
        StoreError: the store cannot be read.
    """
    store = Store(uri)
    sums = store.local_path("SHA256SUMS")
    if sums is not None:
        yield sums.parent
        return
    with tempfile.TemporaryDirectory(prefix="stablerep-model-") as folder:
        for key in store.list():
            store.get(key, Path(folder) / key)
        yield Path(folder)
