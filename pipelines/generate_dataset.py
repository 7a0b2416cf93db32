"""Captions become a data set of image groups, and nothing more: runs under an account that may neither train nor deploy.

`pretrain_and_probe` continues from what this leaves in the store, given the same recipe and overrides.
"""

import sys
from pathlib import Path

from kfp import dsl

sys.path.append(str(Path(__file__).resolve().parent.parent))  # `kfp dsl compile` runs this file from anywhere

from pipelines import parts, placement


@dsl.pipeline(name="generate-dataset", description="Captions to a data set of synthetic image groups.")
def generate_dataset(
    store: str,
    recipe: str = "quickstart",
    overrides: str = "",
    accelerator: str = placement.ACCELERATOR,
    gpu_tolerations: list = placement.GPU_TOLERATIONS,
    spot_node_selector: dict = placement.NO_SELECTOR,
    spot_tolerations: list = placement.SPOT_TOLERATIONS,
):
    """Run the stages up to the committed data set.

    Args:
        store: URI under which everything is kept: file://, s3:// or gs://.
        recipe: Name of a recipe, see `stablerep recipes`.
        overrides: `section.key=value` words, for instance `captions.source=s3://captions/mine.parquet`.
        accelerator: Resource name of a GPU; empty where the cluster has none.
        gpu_tolerations: Tolerations of every task with a GPU.
        spot_node_selector: Labels of the nodes that make images; they may be taken away at any time.
        spot_tolerations: Further tolerations of the tasks that make images.
    """
    run = {"recipe": recipe, "overrides": overrides, "store": store}
    with dsl.ExitHandler(parts.report(run), name="run"):
        spot = placement.Pool(accelerator, spot_node_selector, (gpu_tolerations, spot_tolerations))
        parts.make_dataset(run, spot, after=parts.checked(run, parts.DATASET_STAGES))
