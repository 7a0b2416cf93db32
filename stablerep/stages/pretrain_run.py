"""What the stage `pretrain` and the processes it starts agree on: the run's identity, its configuration in the store, its job.

Light: no torch. What decides the result is in the run's key, so another batch size is another run, and another time limit is not.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from stablerep.config.schema import LaunchConfig, PretrainConfig, SynClrConfig
from stablerep.errors import DataError, StoreError
from stablerep.launch import Budgets, Placement, Toleration, TrainingJob
from stablerep.records import CheckpointRef, DatasetRef, Record
from stablerep.store import Store
from stablerep.training.checkpoint import Checkpoints, step_prefix
from stablerep.training.state import WEIGHTS_NAME, CheckpointRecord, run_identity

CONFIG_KEY = "config.json"
COMPLETE_KEY = "complete.json"
MODEL_KEY = "model.json"
CURVES_KEY = "curves.html"
LEASH_VARIABLE = "STABLEREP_LEASH"

# Where and how long it runs, what is kept: these do not change a digit of the result.
_UNDECISIVE = (
    "num_nodes",
    "num_workers",
    "augment_in",
    "checkpoint_every_steps",
    "num_checkpoints_kept",
    "is_checkpoint_async",
    "is_activation_checkpointed",
    "launch_timeout_seconds",
)

# Settings that came later: left out where they say what runs did before there was such a setting, so the keys of those runs stay.
_LATER = {
    "objective": "multi_positive",
    "ema_decay": 0.0,
    "accumulation_steps": 1,
    "is_compiled": False,
    "candidates": "gathered",
    "weight_decay_end": 0.0,
    "synclr": dataclasses.asdict(SynClrConfig()),
}
_LATER_AUGMENT = {"crop_scale_max": 1.0, "downsample_probability": 0.0}

_MIB_PER_GIB = 1024
_CPU_PROCESS_GIB, _GPU_PROCESS_GIB = 4, 32

_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "90",  # seconds that torchrun gives its processes to save after SIGTERM
}


@dataclass(frozen=True)
class RunConfig(Record):
    """config.json in the run's prefix."""

    run_key: str
    fingerprint: str
    recipe: str
    dataset: DatasetRef
    pretrain: PretrainConfig

    @property
    def prefix(self) -> str:
        """Key of the run's folder in the store."""
        return f"runs/{self.run_key}"


def decisive_settings(pretrain: PretrainConfig) -> dict[str, Any]:
    """The settings that decide the result."""
    settings = dataclasses.asdict(pretrain)
    settings["augment"] = _without(settings["augment"], _LATER_AUGMENT)
    return _without({name: value for name, value in settings.items() if name not in _UNDECISIVE}, _LATER)


def _without(settings: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if (name, value) not in later.items()}


def plan_run(recipe: str, pretrain: PretrainConfig, dataset: DatasetRef) -> RunConfig:
    """The run that these settings and this data set decide."""
    run_key, fingerprint = run_identity(decisive_settings(pretrain), dataset.dataset_id, dataset.manifest_sha256)
    return RunConfig(run_key, fingerprint, recipe, dataset, pretrain)


def training_job(run: RunConfig, store_uri: str, launch: LaunchConfig | None = None, image: str = "") -> TrainingJob:
    """The job of a run as plain data, the same for every attempt.

    Args:
        run: the run.
        store_uri: where its processes find the store.
        launch: where it runs; default: this machine.
        image: what a cluster runs, empty on this machine.
    """
    launch = launch or LaunchConfig()
    pretrain = run.pretrain
    per_node = pretrain.num_processes // pretrain.num_nodes
    gpus = launch.gpus_per_process if image else 0
    gib = (launch.memory_gib_per_process if image else 0) or (_GPU_PROCESS_GIB if gpus else _CPU_PROCESS_GIB)
    return TrainingJob(
        name=f"pretrain-{run.run_key}",
        module="stablerep.stages.pretrain_worker",
        arguments=(store_uri, run.run_key),
        num_processes=pretrain.num_processes,
        num_nodes=pretrain.num_nodes,
        gpus_per_node=per_node * gpus,
        cpus_per_node=per_node * ((launch.cpus_per_process if image else 0) or 1 + pretrain.num_workers),
        memory_mib_per_node=per_node * gib * _MIB_PER_GIB,
        image=image,
        environment=_ENVIRONMENT | _cluster_environment(launch) if image else _ENVIRONMENT,
        timeout_seconds=pretrain.launch_timeout_seconds,
        placement=_placement(launch) if image else Placement(),
    )


def budgets(run: RunConfig, launch: LaunchConfig) -> Budgets:
    """How long a job on a cluster may queue, start, run and be silent."""
    return Budgets(
        launch.queue_timeout_seconds, launch.start_timeout_seconds, run.pretrain.launch_timeout_seconds, launch.heartbeat_timeout_seconds
    )


def _placement(launch: LaunchConfig) -> Placement:
    return Placement(
        runtime=launch.runtime,
        queue=launch.queue,
        priority_class=launch.priority_class,
        service_account=launch.service_account,
        store_secret=launch.store_secret,
        gpu_resource=launch.gpu_resource,
        shared_memory_mib=launch.shared_memory_gib * _MIB_PER_GIB,
        node_selector={key: value for key, _, value in (word.partition("=") for word in launch.node_selector)},
        tolerations=tuple(Toleration.of(word) for word in launch.tolerations),
        grace_seconds=launch.grace_seconds,
    )


def _cluster_environment(launch: LaunchConfig) -> dict[str, str]:
    return {
        "HOME": "/tmp",  # the root file system is read-only
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(launch.grace_seconds),
        "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "[${rank}]:",  # of the job, not of the node
        "STABLEREP_METRICS_PORT": "9090",
        "STABLEREP_METRICS_HOST": "0.0.0.0",
    }


def find_complete(run: RunConfig, runs: Store) -> CheckpointRef | None:
    """The finished run, or None; its weights must still be there, whole."""
    if not runs.exists(COMPLETE_KEY):
        return None
    try:
        done = CheckpointRef.from_json(runs.read_text(COMPLETE_KEY))
        record = Checkpoints(runs, run.run_key, run.fingerprint).read(done.step)
    except StoreError:
        raise
    except DataError:  # gone or unreadable: train again
        return None
    weights = record.file(WEIGHTS_NAME)
    sizes = runs.sizes(step_prefix(done.step))
    is_whole = weights is not None and sizes.get(f"{step_prefix(done.step)}/{weights.name}") == weights.size_bytes
    return done if is_whole and weights and weights.sha256 == done.sha256 else None


def find_final(run: RunConfig, runs: Store) -> CheckpointRecord | None:
    """The commit record of the last step with its weights, or None."""
    checkpoints = Checkpoints(runs, run.run_key, run.fingerprint)
    if run.pretrain.num_steps not in checkpoints.committed_steps():
        return None
    try:
        record = checkpoints.read(run.pretrain.num_steps)
    except StoreError:
        raise
    except DataError:  # a damaged record: the job falls back to the checkpoint before
        return None
    return record if record.file(WEIGHTS_NAME) else None


def checkpoint_ref(record: CheckpointRecord, runs: Store) -> CheckpointRef:
    """What `pretrain` hands on. Equal runs give equal records: no times, no attempts."""
    weights = record.file(WEIGHTS_NAME)
    if weights is None:
        raise DataError(f"{runs.uri_of(step_prefix(record.step))}: expected {WEIGHTS_NAME}, found none; remove the folder and run pretrain")
    return CheckpointRef(
        run_key=record.run_key,
        uri=runs.uri_of(step_prefix(record.step)),
        step=record.step,
        num_steps=record.num_steps,
        fingerprint=record.fingerprint,
        sha256=weights.sha256,
        metrics=record.metrics,
    )
