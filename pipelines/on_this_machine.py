"""A pipeline as it is compiled, changed into one that kfp.local can run: images, environment and retries of a cluster replaced.

Nothing else differs: tasks, edges, conditions, commands and arguments are those of the compiled pipeline.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import yaml
from google.protobuf import json_format
from kfp import components

MAX_RETRIES = 3  # nodes that are taken away are why a cluster tries more often


def adapted(pipeline: Any, environment: Mapping[str, str], image_of: Callable[[str, str], str] | None = None) -> Any:
    """The pipeline for kfp.local.

    Args:
        pipeline: a function decorated with `dsl.pipeline`.
        environment: variables of every task, instead of those a cluster's pods have.
        image_of: (stage, image by digest) -> image; None leaves images as they are.
    """
    specification = copy.deepcopy(json_format.MessageToDict(pipeline.pipeline_spec))
    for label, executor in specification["deploymentSpec"]["executors"].items():
        container = executor["container"]
        container.pop("resources", None)
        container["env"] = [{"name": name, "value": value} for name, value in sorted(environment.items())]
        if image_of is not None:
            container["image"] = image_of(label.removeprefix("exec-"), container["image"])
    for task in _tasks(specification):
        if "retryPolicy" in task:
            task["retryPolicy"] = {"maxRetryCount": min(MAX_RETRIES, task["retryPolicy"]["maxRetryCount"])}
    return components.load_component_from_text(yaml.safe_dump(specification))


def _tasks(specification: dict[str, Any]) -> list[dict[str, Any]]:
    dags = [specification["root"]["dag"], *(each["dag"] for each in specification["components"].values() if "dag" in each)]
    return [task for dag in dags for task in dag["tasks"].values()]
