"""serve: the encoder that was promoted last, in the foreground, until Ctrl-C or SIGTERM.

Not a stage of the pipeline but what `make serve` runs. An endpoint of the same name that `deploy` left in the background is stopped first;
this process then becomes the server.
"""

from typing import NoReturn

from stablerep.endpoint.local import Served, serve_foreground
from stablerep.endpoint.local import stop as stop_endpoint
from stablerep.errors import DataError
from stablerep.stages.context import open_stage
from stablerep.stages.deploy import placement
from stablerep.store import Store


def run(recipe: str, overrides: str, store: str) -> NoReturn:
    """Serve the champion of the store; does not return.

    Args:
        recipe: name of a recipe; `deploy.*` says where to serve.
        overrides: `section.key=value` words.
        store: URI of the store.

    Raises:
        DataError: no model was promoted in this store.
        PortInUseError: another program listens on a port of the recipe.
    """
    with open_stage("serve", recipe, overrides, store) as stage:
        wanted, where = promoted(stage.store), placement(stage)
        stage.reporter.report("stablerep_run_info", 1, stage="serve", id=wanted.model_id)
    serve_foreground(Store(store), where, wanted)


def stop(recipe: str, overrides: str, store: str) -> bool:
    """Stop the endpoint that `deploy` left in the background; whether there was one on this machine."""
    with open_stage("serve", recipe, overrides, store) as stage:
        return stop_endpoint(stage.store, stage.recipe.deploy.name)


def promoted(store: Store) -> Served:
    """The model that was promoted last, on whichever suite.

    Raises:
        DataError: none was, or its folder is gone.
    """
    from stablerep.catalogue import ParquetCatalogue

    champions = sorted(ParquetCatalogue(store).rows("champions"), key=lambda row: row["event_timestamp"])
    if not champions:
        raise DataError(f"expected a promoted model in {store.uri}, found none; run the pipeline first: make run")
    model_id = str(champions[-1]["model_id"])
    if not store.exists(f"models/{model_id}/SHA256SUMS"):
        raise DataError(f"expected the promoted model at {store.uri_of(f'models/{model_id}')}, found none; export it again")
    return Served(model_id, store.uri_of(f"models/{model_id}"))
