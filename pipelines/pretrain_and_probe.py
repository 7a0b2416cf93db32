"""A data set that is in the store becomes an encoder, and the encoder is measured: runs under an account that may launch, not deploy."""

import sys
from pathlib import Path

from kfp import dsl

sys.path.append(str(Path(__file__).resolve().parent.parent))  # `kfp dsl compile` runs this file from anywhere

from pipelines import parts, placement


@dsl.pipeline(name="pretrain-and-probe", description="A data set of image groups to a measured vision encoder.")
def pretrain_and_probe(
    store: str,
    recipe: str = "quickstart",
    overrides: str = "",
    dataset: str = "",
    accelerator: str = placement.ACCELERATOR,
    gpu_node_selector: dict = placement.NO_SELECTOR,
    gpu_tolerations: list = placement.GPU_TOLERATIONS,
):
    """Run the stages from the data set to the evaluation.

    Args:
        store: URI under which everything is kept: file://, s3:// or gs://.
        recipe: Name of a recipe, see `stablerep recipes`.
        overrides: `section.key=value` words, as the data set was made with.
        dataset: Record of `commit`; empty: the one of this recipe and these overrides in the store.
        accelerator: Resource name of a GPU; empty where the cluster has none.
        gpu_node_selector: Labels of the nodes that measure the encoder.
        gpu_tolerations: Tolerations of every task with a GPU.
    """
    run = {"recipe": recipe, "overrides": overrides, "store": store}
    with dsl.ExitHandler(parts.report(run), name="run"):
        pool = placement.Pool(accelerator, gpu_node_selector, (gpu_tolerations,))
        parts.learn_encoder(run, parts.Dataset(dataset, generator=""), pool, after=parts.checked(run, parts.ENCODER_STAGES))
