"""The whole sentence: captions become groups, a data set, an encoder, a measured result and a served endpoint.

The same function runs on a laptop (`python -m pipelines.run_local`) and compiles for Kubeflow (`make compile`). Records of a few KB
travel between tasks as parameters, so that equal content is a cache hit; data stay in the store.
"""

import sys
from pathlib import Path

from kfp import dsl

sys.path.append(str(Path(__file__).resolve().parent.parent))  # `kfp dsl compile` runs this file from anywhere

from components.data_processing.commit.component import commit
from components.data_processing.generate.component import generate
from components.data_processing.generator.component import generator
from components.data_processing.prepare.component import prepare
from components.deployment.deploy.component import deploy
from components.deployment.finish.component import finish
from components.deployment.hold.component import hold
from components.deployment.preflight.component import preflight
from components.deployment.verify.component import verify
from components.evaluation.gate.component import gate
from components.evaluation.probe.component import probe
from components.training.export.component import export
from components.training.pretrain.component import pretrain

MAX_PARALLEL_LANES = 16


def _fresh(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Never served from the cache: these look at the world, or find in the store what is done and make what is missing."""
    return task.set_caching_options(enable_caching=False)


@dsl.pipeline(name="stablerep", description="Captions to a served vision encoder, learned from synthetic images.")
def stablerep(store: str, recipe: str = "quickstart", overrides: str = ""):
    """Run every stage.

    Args:
        store: URI under which everything is kept: file://, s3:// or gs://.
        recipe: Name of a recipe, see `stablerep recipes`.
        overrides: `section.key=value` words, for instance `captions.source=s3://captions/mine.parquet`.
    """
    run = {"recipe": recipe, "overrides": overrides, "store": store}
    with dsl.ExitHandler(_fresh(finish(**run)), name="run"):
        checks = _fresh(preflight(**run))
        model = generator(**run).after(checks)
        prepared = prepare(**run, generator=model.output)
        with dsl.ParallelFor(prepared.output, name="lanes", parallelism=MAX_PARALLEL_LANES) as work:
            made = _fresh(generate(**run, work=work).set_retry(3))
        dataset = _fresh(commit(**run, work=prepared.output, lanes=dsl.Collected(made.output))).outputs["Output"]
        checkpoint = _fresh(pretrain(**run, dataset=dataset).set_retry(3)).outputs["Output"]
        encoder = export(**run, dataset=dataset, generator=model.output, checkpoint=checkpoint).outputs["Output"]
        evaluation = probe(**run, model=encoder).outputs["Output"]
        decision = _fresh(gate(**run, evaluation=evaluation))
        with dsl.If(decision.outputs["is_promoted"] == True, name="promoted"):  # noqa: E712 - KFP builds a condition from it
            endpoint = _fresh(deploy(**run, model=encoder, decision=decision.outputs["decision"]))
            _fresh(verify(**run, model=encoder, endpoint=endpoint.output))
        with dsl.Else(name="held"):
            _fresh(hold(**run, decision=decision.outputs["decision"]))
