"""Which catalogue a stage uses: Feast where it is installed and the store is on this machine, else Parquet with the same facts."""

from importlib.util import find_spec

from stablerep.catalogue import Catalogue, ParquetCatalogue
from stablerep.store import Store


def open_catalogue(store: Store, use_feast: bool) -> Catalogue:
    """Open the catalogue of a store.

    Args:
        store: where the facts are.
        use_feast: `gate.has_catalogue`; False for Parquet even where Feast could be used.
    """
    if use_feast and store.is_local and find_spec("feast") is not None:
        from stablerep.integrations.feast_store import FeastCatalogue

        return FeastCatalogue(store)
    return ParquetCatalogue(store)
