"""Container images of the product: resolve their locks, build them, push them and record what the registry calls them.

    python images/build.py lock                        images/<role>.lock from pyproject.toml, versions as in requirements/dev.lock
    python images/build.py build [ROLE ...]            stablerep/<role>:<version>; the light roles unless told, `all` for every one
    python images/build.py push REGISTRY [ROLE ...]    push to REGISTRY/stablerep/<role> and write the digests to images/images.lock
    python images/build.py record ROLE=DIGEST ...      write digests that something else pushed, as the workflow does

Needs a Docker engine with BuildKit (20.10 or newer) for build and push, and uv (in .venv) for lock. Credentials for a registry are
Docker's own (`docker login`). Images are never tagged `latest`: what runs on a cluster is named by digest.
"""

import argparse
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
IMAGES = PROJECT / "images"
DIGESTS = IMAGES / "images.lock"

EXTRAS: dict[str, tuple[str, ...]] = {
    "runtime": ("runtime", "pipeline"),
    "generate": ("generate", "pipeline"),
    "train": ("train", "launch", "pipeline"),  # launch: with launch.backend=local, pretrain runs where its processes run
    "launch": ("launch", "pipeline"),
    "serve": ("serve", "pipeline"),
    "features": ("features", "pipeline"),
}
"""Role -> extras of pyproject.toml; every role runs KFP tasks, so every role has kfp."""

ROLES = tuple(EXTRAS)
LIGHT = ("runtime", "launch", "features")
TORCH = ("torch", "torchvision")

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

log = logging.getLogger("images")


class ImageError(Exception):
    """Locks, engine or registry did not do what was asked; the message is one sentence."""


def lock() -> None:
    """Resolve every role's packages, and those of the layer that the GPU roles share."""
    _compile("torch", [], TORCH)
    for role in ROLES:
        _compile(role, ["pyproject.toml", *(word for extra in EXTRAS[role] for word in ("--extra", extra))])


def build(roles: Sequence[str], base: str = "", cuda_base: str = "") -> dict[str, float]:
    """Build and tag images; returns the seconds each took.

    Args:
        roles: which.
        base: image with Python 3.11 to start from; empty for the Dockerfile's own.
        cuda_base: the same for the roles with torch.

    Raises:
        ImageError: no engine answers, or a build failed.
    """
    _require_engine()
    seconds: dict[str, float] = {}
    for role in roles:
        start = base if role in LIGHT else cuda_base or base
        arguments = {"ROLE": role, "VERSION": version(), "REVISION": revision()} | ({"BASE": start} if start else {})
        words = [word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")]
        started_at = time.monotonic()
        _docker("build", *words, "--file", str(IMAGES / "Dockerfile"), "--tag", tag(role), str(PROJECT))
        seconds[role] = time.monotonic() - started_at
        log.info("%s: %.0f MB, built in %.0f s", tag(role), _size_bytes(tag(role)) / 1e6, seconds[role])
    return seconds


def push(registry: str, roles: Sequence[str]) -> dict[str, str]:
    """Push images that were built, and record the registry's digests in images/images.lock, without the registry's name.

    Args:
        registry: host and optional prefix, for instance `registry.example.org/team`.
        roles: which; digests of the others stay as they are.

    Raises:
        ImageError: no engine answers, an image is not built, or the registry refuses it.
    """
    _require_engine()
    pushed: dict[str, str] = {}
    for role in roles:
        target = f"{registry.rstrip('/')}/{tag(role)}"
        _docker("tag", tag(role), target)
        _docker("push", "--quiet", target)
        pushed[role] = _digest(target)
    return record(pushed)


def record(pushed: dict[str, str]) -> dict[str, str]:
    """Write digests to images/images.lock; those of other roles stay as they are.

    Args:
        pushed: role -> digest, `sha256:` and 64 hexadecimal digits.

    Raises:
        ImageError: a role or a digest is none.
    """
    wrong = [f"{role}={digest}" for role, digest in pushed.items() if role not in ROLES or not _DIGEST.fullmatch(digest)]
    if wrong or not pushed:
        found = " ".join(wrong) or "nothing"
        raise ImageError(f"expected ROLE=sha256:<64 hexadecimal digits> with roles among {', '.join(ROLES)}, found {found}")
    digests: dict[str, str] = json.loads(DIGESTS.read_text(encoding="utf-8")) if DIGESTS.exists() else {}
    digests |= {role: f"stablerep/{role}@{digest}" for role, digest in pushed.items()}
    ordered = {role: digests[role] for role in ROLES if role in digests}
    DIGESTS.write_text(json.dumps(ordered, indent=2) + "\n", encoding="utf-8")
    missing = [role for role in ROLES if role not in digests]
    log.info("wrote %s%s; now `make compile`", DIGESTS.name, f" (still without {', '.join(missing)})" if missing else "")
    return ordered


def tag(role: str) -> str:
    """Local name of a role's image."""
    return f"stablerep/{role}:{version()}"


def version() -> str:
    """The product's version, as pyproject.toml has it."""
    return str(tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def revision() -> str:
    """Commit of the working tree, with `-dirty` where it holds changes; `unknown` outside git."""
    found = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--dirty"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def _compile(name: str, sources: Sequence[str], also: Sequence[str] = ()) -> None:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv is None:
        raise ImageError("expected uv beside the interpreter or on PATH to resolve locks, found none; run `make setup`")
    options = ["--python-version", "3.11", "--python-platform", "x86_64-unknown-linux-gnu", "--constraint", "requirements/dev.lock"]
    options += ["--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url", "--quiet"]
    words = [uv, "pip", "compile", *sources, *(["-"] if also else []), *options, "--output-file", f"images/{name}.lock"]
    done = subprocess.run(words, cwd=PROJECT, input="\n".join(also), text=True, check=False)
    if done.returncode:
        raise ImageError(
            f"uv could not resolve images/{name}.lock; run `make lock` first, so that requirements/dev.lock holds every package"
        )


def _require_engine() -> None:
    try:
        answer = subprocess.run(
            ["docker", "version", "--format", "{{.Server.Version}}"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        answer = None
    if answer is None or answer.returncode:
        where = os.environ.get("DOCKER_HOST") or "the default socket"
        raise ImageError(f"no Docker engine answers at {where}: install and start one, or point DOCKER_HOST at one, then run this again")


def _docker(*words: str) -> None:
    done = subprocess.run(["docker", *words], env=os.environ | {"DOCKER_BUILDKIT": "1"}, check=False)
    if done.returncode:
        raise ImageError(
            f"`docker {words[0]}` of {words[-2] if words[0] == 'build' else words[-1]} ended with {done.returncode}; see above"
        )


def _inspect(image: str, template: str) -> str:
    done = subprocess.run(["docker", "image", "inspect", "--format", template, image], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ImageError(f"expected the image {image} in the engine, found none; run `make images ROLES=...` first")
    return done.stdout.strip()


def _size_bytes(image: str) -> int:
    return int(_inspect(image, "{{.Size}}"))


def _digest(image: str) -> str:
    repository = image.rpartition(":")[0]
    names: list[str] = json.loads(_inspect(image, "{{json .RepoDigests}}"))
    found = next((name for name in names if name.startswith(repository + "@")), None)
    if found is None:
        raise ImageError(f"the registry gave no digest for {image}; is it a registry of the version 2 protocol?")
    return found.rpartition("@")[2]


def _chosen(words: Sequence[str]) -> tuple[str, ...]:
    names = [name for word in words for name in word.split()]
    unknown = [name for name in names if name not in (*ROLES, "all")]
    if unknown:
        raise ImageError(f"expected roles among {', '.join(ROLES)} or all, found {', '.join(unknown)}")
    return ROLES if "all" in names else tuple(name for name in ROLES if name in names) or LIGHT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Container images: locks, builds, digests.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("lock", help="resolve images/*.lock")
    builder = commands.add_parser("build", help="build and tag images")
    builder.add_argument("roles", nargs="*", help=f"of {', '.join(ROLES)}, or all (default: {' '.join(LIGHT)})")
    builder.add_argument("--base", default="", help="image to start from (default: the Dockerfile's)")
    builder.add_argument("--cuda-base", default="", help="image to start from for the roles with torch (default: that of --base)")
    pusher = commands.add_parser("push", help="push images and write images/images.lock")
    pusher.add_argument("registry", help="host and prefix, for instance registry.example.org/team")
    pusher.add_argument("roles", nargs="*", help="which (default: the light ones)")
    recorder = commands.add_parser("record", help="write digests to images/images.lock")
    recorder.add_argument("digests", nargs="+", metavar="ROLE=DIGEST")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 1 and one sentence where something is missing."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = _parser().parse_args(arguments)
    try:
        if options.command == "lock":
            lock()
        elif options.command == "build":
            build(_chosen(options.roles), options.base, options.cuda_base)
        elif options.command == "push":
            push(options.registry, _chosen(options.roles))
        else:
            record({role: digest for role, _, digest in (word.partition("=") for word in options.digests)})
    except ImageError as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
