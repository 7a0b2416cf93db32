"""A training job as plain data, what runs it, and the wait for its end.

A `TrainingJob` says what to run; a `Backend` (TorchX on this machine, `cluster.ClusterBackend` elsewhere) says where; `run_job` submits,
streams the log, keeps the budgets and stops the job when its launcher is asked to stop. No launcher leaves processes behind: on this
machine they are on a `leash`, on a cluster the job is deleted, or adopted by the next launcher where this one was killed.
"""

from stablerep.launch.budgets import Budgets, Clock
from stablerep.launch.failure import Cause, JobFailure, PodEnd
from stablerep.launch.job import ATTEMPT_VARIABLE, Backend, JobState, Placement, Toleration, TrainingJob, dry_run
from stablerep.launch.leash import Leash, follow, hold, leash_folder
from stablerep.launch.signals import stop_signals
from stablerep.launch.watch import JobEnd, Watcher, last_lines, run_job

__all__ = [
    "ATTEMPT_VARIABLE",
    "Backend",
    "Budgets",
    "Cause",
    "Clock",
    "JobEnd",
    "JobFailure",
    "JobState",
    "Leash",
    "Placement",
    "PodEnd",
    "Toleration",
    "TrainingJob",
    "Watcher",
    "dry_run",
    "follow",
    "hold",
    "last_lines",
    "leash_folder",
    "run_job",
    "stop_signals",
]
