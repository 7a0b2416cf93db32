"""Keep a local copy of a store's catalogue, with Feast's online store beside it: `python mirror.py s3://bucket /feast 300`.

Runs in the features pod beside `feast serve`, which reads what is written here. Files are only added or replaced, each as a whole; a
store out of reach is tried again at the next turn. Small files are copied every time, large ones when their size differs: a promotion
is small, the groups of a data set are not, and never change.
"""

import logging
import signal
import sys
import threading
from pathlib import Path

from stablerep.catalogue.files import FOLDER
from stablerep.errors import StablerepError
from stablerep.integrations.feast_store import FeastCatalogue
from stablerep.store import Store

SMALL_BYTES = 1 << 20

log = logging.getLogger("mirror")


def mirror(source: Store, copy: Store) -> list[str]:
    """Copy what is new, bring it online, and return the tables that changed."""
    known = copy.sizes(FOLDER)
    for key, size_bytes in source.sizes(FOLDER).items():
        target = copy.local_path(key)
        if target is not None and key.endswith(".parquet") and (size_bytes <= SMALL_BYTES or known.get(key) != size_bytes):
            source.get(key, target)
    return FeastCatalogue(copy).sync()


def main(source: str, folder: str, every_seconds: float) -> None:
    """Mirror at once and then every so often, until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    while not stop.is_set():
        try:
            log.info("online: %s", ", ".join(mirror(Store(source), Store(Path(folder).as_uri()))) or "nothing new")
        except StablerepError as error:
            log.warning("kept as it was: %s", error)
        stop.wait(every_seconds)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
