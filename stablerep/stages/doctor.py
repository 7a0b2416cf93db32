"""doctor: whether this container, or this machine, holds what its role needs. No recipe, no store, no network.

Every image runs it at the end of its build and as its default command; `stablerep doctor` on a laptop checks all roles at once. It looks
at what is installed and at what the container may do, where preflight looks at what one run needs. Every check runs, whatever failed
before it. Not a stage of the pipeline.
"""

import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib import metadata
from pathlib import Path

from stablerep import __version__
from stablerep.errors import ConfigError, StablerepError
from stablerep.stages.doctor_self_tests import SELF_TESTS
from stablerep.stages.preflight_table import Check, failures, judged, plain
from stablerep.stages.roles import ALL, ROLE_VARIABLE, ROLES, everything
from stablerep.store import Store

GPU_VARIABLE = "STABLEREP_REQUIRE_GPU"
_INSTALL = "use the image of this role, or run `make setup`"
_WRITABLE = "mount an emptyDir, with docker a --tmpfs, at /tmp; the images keep HOME there"
_SHARED_MEMORY = Path("/dev/shm")


def examine(role_name: str = "") -> list[Check]:
    """Run every check of a role.

    Args:
        role_name: one of `stablerep.stages.roles.ROLES` or `all`; empty for STABLEREP_ROLE, which each image sets, else `all`.

    Raises:
        ConfigError: there is no such role.
    """
    name = role_name or os.environ.get(ROLE_VARIABLE) or ALL
    if name != ALL and name not in ROLES:
        raise ConfigError(f"expected a role among {', '.join(ROLES)} or {ALL}, found {name!r}; pass --role or set {ROLE_VARIABLE}")
    role = everything() if name == ALL else ROLES[name]
    checks = [judged("role", True, name, ""), *_place(), *(_package(package) for package in role.packages)]
    checks += [_tried("stages", _INSTALL, partial(_modules, role.modules)), *(_torch() if role.has_torch else [])]
    checks.append(_tried("store", _WRITABLE, _store))
    return checks + [_tried(f"{each} self-test", _INSTALL, SELF_TESTS[each]) for each in (ROLES if name == ALL else [name])]


def table(checks: Sequence[Check]) -> str:
    """The checks for a terminal."""
    return plain(checks)


def require_green(checks: Sequence[Check]) -> None:
    """Do nothing where every check is ok.

    Raises:
        ConfigError: the names of the checks that failed; the table has what to do.
    """
    if not all(check.is_ok for check in checks):
        raise ConfigError(failures("doctor", checks))


def _place() -> list[Check]:
    """Checks of the container itself, or of the machine."""
    python = ".".join(map(str, sys.version_info[:3]))
    return [
        judged("Python", (3, 11) <= sys.version_info < (3, 13), python, "use Python 3.11 or 3.12"),
        judged("stablerep", True, __version__, ""),
        _user(),
        judged("root file system", True, "read-only" if os.statvfs("/").f_flag & os.ST_RDONLY else "writable", ""),
        _tried("writable folders", _WRITABLE, _folders),
    ]


def _user() -> Check:
    """An image runs without root; on a laptop people do as they like."""
    is_ok = os.getuid() != 0 or not os.environ.get(ROLE_VARIABLE)
    return judged("user", is_ok, f"uid {os.getuid()}, gid {os.getgid()}", "run the container as 65532:65532 (runAsNonRoot, docker --user)")


def _folders() -> str:
    folders = dict.fromkeys([Path(os.environ.get("TMPDIR") or "/tmp"), Path.home()])
    for folder in folders:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"stablerep")
    return ", ".join(map(str, folders))


def _package(name: str) -> Check:
    return _tried(name, _INSTALL, lambda: _import(name))


def _import(name: str) -> str:
    importlib.import_module(name)
    return ", ".join(f"{each} {metadata.version(each)}" for each in dict.fromkeys(_distributions().get(name, ()))) or "imports"


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())


def _modules(names: Sequence[str]) -> str:
    for name in names:
        importlib.import_module(name)
    return ", ".join(name.rpartition(".")[2] for name in names)


def _torch() -> list[Check]:
    gpu = f"start the container with a GPU and NVIDIA's container toolkit, or unset {GPU_VARIABLE}"
    shared = "mount memory at /dev/shm: an emptyDir of medium Memory, with docker --shm-size"
    return [
        _tried("torch computes", _INSTALL, lambda: _compute("cpu")),
        _tried("CUDA", gpu, _cuda),
        _tried("shared memory", shared, _shared_memory),
    ]


def _compute(device: str) -> str:
    import torch

    ones_NN = torch.ones(64, 64, device=device)
    total = float((ones_NN @ ones_NN).sum())
    if total != 64**3:
        raise ConfigError(f"expected the sum {64**3}, found {total}")
    return f"64 x 64 product on {device}"


def _cuda() -> str:
    import torch

    built = f"torch {torch.__version__}, built for CUDA {torch.version.cuda or 'none'}"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return f"{built}; {_compute('cuda')}; {', '.join(names)}"
    if os.environ.get(GPU_VARIABLE) == "1":
        raise ConfigError(f"{built}; no GPU visible, and {GPU_VARIABLE}=1")
    return f"{built}; no GPU visible, {GPU_VARIABLE}=1 demands one"


def _shared_memory() -> str:
    """Data-loader workers hand batches over through it."""
    with tempfile.TemporaryFile(dir=_SHARED_MEMORY) as file:
        file.write(b"stablerep")
    about = os.statvfs(_SHARED_MEMORY)
    return f"{about.f_blocks * about.f_frsize >> 20} MiB at {_SHARED_MEMORY}"


def _store() -> str:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder).as_uri())
        store.write("doctor/word", b"stablerep")
        if store.read("doctor/word") != b"stablerep":
            raise ConfigError(f"{store.uri} gave back other bytes than were written")
        store.delete("doctor/word")
    return "written, read and deleted in a temporary folder"


def _tried(name: str, remedy: str, look: Callable[[], str]) -> Check:
    """What `look` found, or what it raised: a doctor reports whatever a library does."""
    try:
        return judged(name, True, look(), "")
    except StablerepError as error:
        return judged(name, False, str(error), remedy)
    except Exception as error:
        return judged(name, False, f"{type(error).__name__}: {error}", remedy)
