"""A run's configuration becomes the parts of the training loop: data set, tokenizer, model, engine, loader, checkpoints, journal.

Imported by the training processes only (torch, timm, DeepSpeed). Rank 0 learns the vocabulary and writes it, with the shapes of the model,
into the run's prefix, where `export` finds both.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import asdict

from stablerep.batches import GroupLoader
from stablerep.batches.tokenize import CaptionTokenizer, build_tokenizer
from stablerep.config.schema import PretrainConfig
from stablerep.distributed import SyncBatchNorm1d
from stablerep.identity import canonical_json
from stablerep.models import HeadSpec, ModelSpec, TextSpec, TrunkSpec, build_two_tower, compile_trunk, normalisation
from stablerep.shards.read import GroupDataset
from stablerep.stages.exporter import OpenExporter, open_exporter
from stablerep.stages.pretrain_objective import caption_classes, choose_objective
from stablerep.stages.pretrain_run import MODEL_KEY, RunConfig
from stablerep.store import Store
from stablerep.telemetry import Reporter
from stablerep.training.checkpoint import Checkpoints
from stablerep.training.classes import CaptionClasses
from stablerep.training.deepspeed_monitor import Report
from stablerep.training.engine import Engine, OptimizerSettings, TorchEngine
from stablerep.training.journal import Journal
from stablerep.training.loop import Job, Plan, train
from stablerep.training.objective import Objective
from stablerep.training.processes import Processes
from stablerep.training.schedule import learning_rate, peak_learning_rate
from stablerep.training.state import TOKENIZER_KEY, CheckpointRecord

log = logging.getLogger("stablerep")


def train_run(
    plan: RunConfig,
    store: Store,
    runs: Store,
    processes: Processes,
    attempt: str,
    *,
    has_launcher: bool,
    is_stop_asked: Callable[[], bool],
) -> CheckpointRecord:
    """Train a run to its end in this process and its peers; collective.

    Args:
        plan: the run.
        store: where the data set is.
        runs: the run's prefix.
        processes: the job.
        attempt: name of this attempt.
        has_launcher: a launcher on this machine shows progress.
        is_stop_asked: whether to save and end.
    """
    pretrain = plan.pretrain
    dataset = GroupDataset(store, plan.dataset)
    tokenizer = _tokenizer(pretrain, dataset, runs, processes)
    spec = model_spec(pretrain, tokenizer)
    classes = caption_classes(pretrain, store, plan.dataset, dataset, runs, processes)
    if processes.rank == 0:
        runs.write(MODEL_KEY, canonical_json(asdict(spec)))
    is_first = processes.rank == 0
    is_exporting = os.environ.get("LOCAL_RANK", "0") == "0"  # one process of every pod: rank 0 tells of the run, the others of themselves
    exporter = open_exporter() if is_exporting else OpenExporter()
    reporter = Reporter("pretrain", exporter.sinks)
    reporter.report("stablerep_run_info", 1, stage="pretrain", id=plan.run_key)
    job = Job(
        runs=runs,
        processes=processes,
        checkpoints=Checkpoints(runs, plan.run_key, plan.fingerprint),
        engine=build_engine(pretrain, spec, processes, classes, reporter.report if is_first and exporter.sinks else None),
        loader=_loader(pretrain, dataset, tokenizer, processes),
        learning_rate=_schedule(pretrain),
        plan=Plan(
            pretrain.num_steps,
            pretrain.checkpoint_every_steps,
            pretrain.num_checkpoints_kept,
            pretrain.seed,
            attempt,
            pretrain.is_checkpoint_async,
        ),
        is_stop_asked=is_stop_asked,
    )

    def make_journal(after_step: int) -> Journal:
        return Journal(
            runs,
            is_first=is_first,
            attempt=attempt,
            after_step=after_step,
            num_steps=pretrain.num_steps,
            sinks=exporter.sinks,
            log_every_seconds=0 if has_launcher else 60,
        )

    record = train(job, make_journal)
    exporter.stop(not is_stop_asked())
    return record


def model_spec(pretrain: PretrainConfig, tokenizer: CaptionTokenizer | None) -> ModelSpec:
    """Shapes of the model; without a tokenizer there is no text tower."""
    text = pretrain.text
    text_spec = tokenizer and TextSpec(
        vocabulary_size=tokenizer.vocabulary_size,
        eot_id=tokenizer.eot_id,
        context_length=text.context_length,
        width=text.width,
        depth=text.depth,
        num_heads=text.num_heads,
        out_dim=text.out_dim,
        projection=text.projection,
    )
    has_head = pretrain.objective in ("multi_positive", "simclr", "synclr")
    return ModelSpec(TrunkSpec(**asdict(pretrain.trunk)), HeadSpec(**asdict(pretrain.head)), text_spec, has_head)


def build_objective(pretrain: PretrainConfig, spec: ModelSpec, classes: CaptionClasses | None = None) -> Objective:
    """The towers and their losses, with weights that the seed decides; `classes` of the captions for supervised training."""
    towers = build_two_tower(
        spec,
        batch_norm=SyncBatchNorm1d,
        seed=pretrain.seed,
        is_checkpointed=pretrain.is_activation_checkpointed,
        is_size_free=pretrain.objective == "synclr",
        num_chunks=pretrain.accumulation_steps,
    )
    if pretrain.is_compiled:
        compile_trunk(towers.trunk)
    return choose_objective(pretrain, towers, classes)


def build_engine(
    pretrain: PretrainConfig,
    spec: ModelSpec,
    processes: Processes,
    classes: CaptionClasses | None = None,
    report: Report | None = None,
) -> Engine:
    """DeepSpeed for several processes, which tells `report` what it measures; for one there is nothing to shard."""
    objective = build_objective(pretrain, spec, classes)
    settings = OptimizerSettings(
        pretrain.weight_decay,
        pretrain.beta1,
        pretrain.beta2,
        pretrain.clip_norm,
        pretrain.precision,
        pretrain.ema_decay,
        pretrain.weight_decay_end,
        pretrain.num_steps,
    )
    if processes.world_size == 1:
        return TorchEngine(objective, settings, processes.device)
    from stablerep.training.deepspeed_engine import DeepspeedEngine

    captions_per_process = pretrain.captions_per_batch // processes.world_size
    return DeepspeedEngine(
        objective, settings, processes, zero_stage=pretrain.zero_stage, captions_per_process=captions_per_process, report=report
    )


def _loader(pretrain: PretrainConfig, dataset: GroupDataset, tokenizer: CaptionTokenizer | None, processes: Processes) -> GroupLoader:
    size_px = pretrain.trunk.size_px
    mean, std = normalisation(size_px)
    return GroupLoader(
        dataset,
        tokenizer,
        captions_per_batch=pretrain.captions_per_batch,
        images_per_caption=pretrain.images_per_caption,
        views_per_image=pretrain.views_per_image,
        rank=processes.rank,
        world_size=processes.world_size,
        seed=pretrain.seed,
        augment=pretrain.augment,
        size_px=size_px,
        mean=mean,
        std=std,
        num_workers=pretrain.num_workers,
        small_crops=pretrain.synclr if pretrain.objective == "synclr" else None,
        augment_in=pretrain.augment_in,
        device=processes.device,
        image_weights=dataset.image_weights if _counts_weights(pretrain, dataset, processes) else None,
    )


def _counts_weights(pretrain: PretrainConfig, dataset: GroupDataset, processes: Processes) -> bool:
    """Whether images count by their weights, the same on every process; says so where an objective has no use for them."""
    is_counted = dataset.is_weighted and pretrain.objective == "multi_positive"
    if dataset.is_weighted and not is_counted and processes.rank == 0:
        log.warning("pretrain: some images have lower weights, which pretrain.objective=%s does not count", pretrain.objective)
    return is_counted


def _schedule(pretrain: PretrainConfig) -> Callable[[int], float]:
    peak = peak_learning_rate(pretrain.lr, pretrain.base_lr, pretrain.views_per_batch)
    return lambda step: learning_rate(step, peak=peak, num_steps=pretrain.num_steps, warmup_steps=pretrain.warmup_steps)


def _tokenizer(pretrain: PretrainConfig, dataset: GroupDataset, runs: Store, processes: Processes) -> CaptionTokenizer | None:
    if not pretrain.has_text:
        return None
    text = ""
    if processes.rank == 0:
        captions = [dataset.caption(position).text for position in range(dataset.num_groups)]
        built = build_tokenizer(
            captions,
            vocabulary=pretrain.text.vocabulary,
            vocabulary_size=pretrain.text.vocabulary_size,
            context_length=pretrain.text.context_length,
        )
        text = built.to_json()
        runs.write(TOKENIZER_KEY, text)
    return CaptionTokenizer.from_json(processes.share(text))
