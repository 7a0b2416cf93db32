"""The parts that pipelines are made of: each adds tasks to the pipeline that is being defined and returns what the next one takes.

    checked -> make_dataset -> learn_encoder -> promote, between `report` (the exit task)

`run` is recipe, overrides and store, which every stage takes. A record given as "" is the one in the ledger of this recipe and store.
"""

from typing import Any, NamedTuple

from kfp import dsl

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
from pipelines.placement import Pool, place

MAX_PARALLEL_LANES = 16
DATASET_STAGES = "generator prepare generate commit"
ENCODER_STAGES = "pretrain export probe"
PROMOTION_STAGES = "gate deploy verify hold"


class Dataset(NamedTuple):
    """Records of `commit` and `generator`."""

    dataset: Any
    generator: Any


class Encoder(NamedTuple):
    """Records of `export` and `probe`."""

    model: Any
    evaluation: Any


def _fresh(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Never served from the cache: these look at the world, or find in the store what is done and make what is missing."""
    return task.set_caching_options(enable_caching=False)


def _ordered(task: dsl.PipelineTask, after: dsl.PipelineTask | None) -> dsl.PipelineTask:
    return task if after is None else task.after(after)


def report(run: dict[str, Any]) -> dsl.PipelineTask:
    """The exit task: the run's summary and report, however it ended."""
    return _fresh(place(finish(**run), "cpu", "runtime"))


def checked(run: dict[str, Any], stages: str) -> dsl.PipelineTask:
    """What must be there for these stages, before anything is spent."""
    return _fresh(place(preflight(**run, stages=stages), "cpu", "runtime"))


def make_dataset(run: dict[str, Any], pool: Pool, after: dsl.PipelineTask) -> Dataset:
    """Captions become a data set of image groups; `pool` makes the images."""
    model = place(generator(**run).after(after), "cpu-large", "generate")
    prepared = place(prepare(**run, generator=model.output), "cpu-large", "generate")
    with dsl.ParallelFor(prepared.output, name="lanes", parallelism=MAX_PARALLEL_LANES) as work:
        made = _fresh(place(generate(**run, work=work), "gpu-generate-spot", "generate", pool))
    committed = _fresh(place(commit(**run, work=prepared.output, lanes=dsl.Collected(made.output)), "cpu-large", "generate"))
    return Dataset(committed.outputs["Output"], model.output)


def learn_encoder(run: dict[str, Any], made: Dataset, pool: Pool, after: dsl.PipelineTask | None = None) -> Encoder:
    """A data set becomes an encoder that is measured; `pool` measures, the training job has its own nodes (`launch` of the recipe)."""
    trained = _fresh(place(_ordered(pretrain(**run, dataset=made.dataset), after), "launch", "launch"))
    checkpoint = trained.outputs["Output"]
    exported = place(export(**run, dataset=made.dataset, generator=made.generator, checkpoint=checkpoint), "cpu-large", "train")
    model = exported.outputs["Output"]
    measured = place(probe(**run, model=model), "gpu-small", "train", pool)
    return Encoder(model, measured.outputs["Output"])


def promote(run: dict[str, Any], learned: Encoder, after: dsl.PipelineTask | None = None) -> None:
    """An encoder that passes the gate is served and asked; another is held."""
    decision = _fresh(place(_ordered(gate(**run, evaluation=learned.evaluation), after), "cpu", "features"))
    with dsl.If(decision.outputs["is_promoted"] == True, name="promoted"):  # noqa: E712 - KFP builds a condition from it
        served = _fresh(place(deploy(**run, model=learned.model, decision=decision.outputs["decision"]), "deploy", "serve"))
        _fresh(place(verify(**run, model=learned.model, endpoint=served.output), "deploy", "serve"))
    with dsl.Else(name="held"):
        _fresh(place(hold(**run, decision=decision.outputs["decision"]), "cpu", "runtime"))
