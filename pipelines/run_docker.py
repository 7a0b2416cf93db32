"""`make run-docker`: the compiled pipeline on this machine, every task in the container image that a cluster gives it.

kfp.local's DockerRunner starts the containers as a cluster would: nobody's privileges, a read-only root, a /tmp in memory and, for a
store on this machine, no network but loopback. Images are the local ones of `make images` (`stablerep/<role>:<version>`): a digest exists
in a registry only. The training job runs where the task runs (launch.backend=local), so `pretrain` takes the image `train`.
"""

import argparse
import os
import socket
import sys
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from pipelines.placement import USER, images  # noqa: E402
from pipelines.run_local import Tasks, argument_parser, follow, run_tasks, store_of  # noqa: E402
from stablerep.store import Store  # noqa: E402

LABEL = "dev.stablerep.root"  # which run a container belongs to
DEFAULT_HOST = "unix:///var/run/docker.sock"
ENGINE_SECONDS = 30


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the pipeline in containers and follow it; returns the exit code of `stablerep.errors`, 1 without an engine or an image."""
    what = "Run the whole pipeline on this machine, every task in its container image."
    parser = argument_parser("make run-docker", what, recipe="smoke", root="build/docker")
    parser.add_argument("--network", default="", help="network of the containers (default: none for a store on this machine, else bridge)")
    options = parser.parse_args(arguments)
    if options.child:
        return run_tasks(options, lambda tasks_folder: _containers(options, tasks_folder))
    if complaint := missing(images()):
        sys.stderr.write(complaint + "\n")
        return 1
    try:
        return follow(options, "pipelines.run_docker", sys.argv[1:] if arguments is None else arguments)
    finally:
        _stop_containers(options)


def missing(roles: Sequence[str] | Mapping[str, str]) -> str:
    """One sentence on the engine or the images that are not there; empty where nothing is missing."""
    import docker
    from docker.errors import DockerException

    host = os.environ.get("DOCKER_HOST") or DEFAULT_HOST
    try:
        if host.startswith("unix://"):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(host.removeprefix("unix://"))
        with closing(docker.from_env(timeout=ENGINE_SECONDS)) as client:
            known = {tag for image in client.images.list() for tag in image.tags}
    except (DockerException, OSError):
        return f"no Docker engine answers at {host}: install and start one, or point DOCKER_HOST at one, then run this again"
    lacking = [tag(role) for role in roles if tag(role) not in known]
    return f"expected the images {', '.join(lacking)} in the engine, found none; run `make images ROLES=all` first" if lacking else ""


def tag(role: str) -> str:
    """Local name of a role's image."""
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return f"stablerep/{role}:{version}"


def image_of(stage: str, pinned: str) -> str:
    """The local image of a stage.

    Args:
        stage: verb of the stage.
        pinned: its image on a cluster, by digest.
    """
    role = pinned.partition("@")[0].rpartition("/")[2]
    return tag("train" if stage == "pretrain" else role)


def container_arguments(options: argparse.Namespace, user: tuple[int, int]) -> dict[str, Any]:
    """What DockerRunner passes to `docker run`.

    Args:
        options: recipe, store and network of the run.
        user: uid and gid of the processes.
    """
    from docker.types import Mount

    folder = _store_folder(options)
    return {
        "user": f"{user[0]}:{user[1]}",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "tmpfs": {"/tmp": "rw,exec,nosuid,nodev,mode=1777,size=8g"},
        "shm_size": "1g",
        "init": True,
        "labels": {LABEL: str(Path(options.root).absolute())},
        "network_mode": options.network or ("none" if folder else "bridge"),
        "mounts": [Mount(str(folder), str(folder), type="bind")] if folder else [],
    }


def _containers(options: argparse.Namespace, tasks_folder: Path) -> Tasks:
    from kfp import local

    user = (os.getuid(), os.getgid()) if os.getuid() else (USER, USER)  # never root
    for folder in filter(None, (tasks_folder, _store_folder(options))):
        folder.mkdir(parents=True, exist_ok=True)
        if os.getuid() == 0:
            _give(folder, user)
    handed_on = ("STABLEREP_LOG_EVERY_SECONDS", "OMP_NUM_THREADS", *(key for key in os.environ if key.startswith("AWS_")))
    environment = {"HOME": "/tmp", "USER": "stablerep"} | {key: os.environ[key] for key in handed_on if key in os.environ}
    return Tasks(local.DockerRunner(**container_arguments(options, user)), environment, image_of)


def _stop_containers(options: argparse.Namespace) -> None:
    """End what an interrupted run left running."""
    import docker

    with closing(docker.from_env(timeout=ENGINE_SECONDS)) as client:
        for container in client.containers.list(filters={"label": f"{LABEL}={Path(options.root).absolute()}"}):
            container.stop(timeout=ENGINE_SECONDS)


def _store_folder(options: argparse.Namespace) -> Path | None:
    """Where the store is on this machine; None for an object store."""
    inside = Store(store_of(options)).local_path("ledger")
    return None if inside is None else inside.parent


def _give(folder: Path, user: tuple[int, int]) -> None:
    """Hand a folder of this run and all in it to the user of the containers."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, *user, follow_symlinks=False)


if __name__ == "__main__":
    sys.exit(main())
