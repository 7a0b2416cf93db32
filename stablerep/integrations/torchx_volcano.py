"""The AppDef of a job as a Volcano Job, by the dry run of TorchX's kubernetes scheduler; nothing is submitted here.

TorchX gives every dry run another name and labels of its own; both are replaced, so that equal jobs give equal documents. Its pods get the
overlay of `torchx_pod` (only the form `metadata={"kubernetes": {"V1Pod": ...}}` takes effect). One pod's failure ends the job: the
others would wait for it.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import json
from typing import Any, cast

import yaml
from torchx.schedulers.kubernetes_scheduler import create_scheduler

from stablerep.errors import ConfigError
from stablerep.integrations.torchx_app import app_def
from stablerep.integrations.torchx_pod import labels, pod_overlay
from stablerep.launch import TrainingJob

_TTL_SECONDS = 604_800


def volcano_job(job: TrainingJob) -> dict[str, Any]:
    """The document of a job.

    Raises:
        ConfigError: the job names no image.
    """
    if not job.image:
        raise ConfigError(f"job {job.name}: expected an image; set launch.image or STABLEREP_TRAIN_IMAGE")
    app = app_def(job)
    app.roles[0].metadata["kubernetes"] = {"V1Pod": pod_overlay(job)}
    placement = job.placement
    options: dict[str, Any] = {"queue": placement.queue or "default", "validate_spec": False}
    if placement.service_account:
        options["service_account"] = placement.service_account
    if placement.priority_class:
        options["priority_class"] = placement.priority_class
    dry_run = create_scheduler("stablerep").submit_dryrun(app, cast("Any", options))
    document = cast("dict[str, Any]", yaml.safe_load(str(dry_run.request)))
    document = json.loads(json.dumps(document).replace(document["metadata"]["name"], job.name))
    document["metadata"]["labels"] = labels(job)
    document["spec"]["policies"] = [{"event": event, "action": "TerminateJob"} for event in ("PodFailed", "PodEvicted")]
    document["spec"]["ttlSecondsAfterFinished"] = _TTL_SECONDS
    for task in document["spec"]["tasks"]:
        metadata = task["template"]["metadata"]
        own = {name: value for name, value in metadata["labels"].items() if not name.startswith(("torchx.", "app."))}
        metadata["labels"] = own | labels(job)
    return document
