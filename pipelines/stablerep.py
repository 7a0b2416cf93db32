"""The whole sentence: captions become groups, a data set, an encoder, a measured result and a served endpoint.

The same function runs on a laptop (`python -m pipelines.run_local`) and compiles for Kubeflow (`make compile`). Records of a few KB
travel between tasks as parameters, so that equal content is a cache hit; data stay in the store.
"""

import sys
from pathlib import Path

from kfp import dsl

sys.path.append(str(Path(__file__).resolve().parent.parent))  # `kfp dsl compile` runs this file from anywhere

from pipelines import parts, placement


@dsl.pipeline(name="stablerep", description="Captions to a served vision encoder, learned from synthetic images.")
def stablerep(
    store: str,
    recipe: str = "quickstart",
    overrides: str = "",
    accelerator: str = placement.ACCELERATOR,
    gpu_node_selector: dict = placement.NO_SELECTOR,
    gpu_tolerations: list = placement.GPU_TOLERATIONS,
    spot_node_selector: dict = placement.NO_SELECTOR,
    spot_tolerations: list = placement.SPOT_TOLERATIONS,
):
    """Run every stage.

    Args:
        store: URI under which everything is kept: file://, s3:// or gs://.
        recipe: Name of a recipe, see `stablerep recipes`.
        overrides: `section.key=value` words, for instance `captions.source=s3://captions/mine.parquet`.
        accelerator: Resource name of a GPU; empty where the cluster has none.
        gpu_node_selector: Labels of the nodes that measure the encoder.
        gpu_tolerations: Tolerations of every task with a GPU.
        spot_node_selector: Labels of the nodes that make images; they may be taken away at any time.
        spot_tolerations: Further tolerations of the tasks that make images.
    """
    run = {"recipe": recipe, "overrides": overrides, "store": store}
    with dsl.ExitHandler(parts.report(run), name="run"):
        checks = parts.checked(run, stages="")
        spot = placement.Pool(accelerator, spot_node_selector, (gpu_tolerations, spot_tolerations))
        made = parts.make_dataset(run, spot, after=checks)
        learned = parts.learn_encoder(run, made, placement.Pool(accelerator, gpu_node_selector, (gpu_tolerations,)))
        parts.promote(run, learned)
