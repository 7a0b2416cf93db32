"""The container images and what each of them must hold: modules that its containers start, packages those import.

One role, one image (images/), one lock (images/<role>.lock): an image installs what its stages import, nothing more. `stablerep doctor`
imports all of it inside the image; a contract test compares it with what the code imports. Imports nothing heavy.
"""

from dataclasses import dataclass

ROLE_VARIABLE = "STABLEREP_ROLE"
ALL = "all"

_STORE = ("fsspec", "gcsfs", "s3fs", "prometheus_client")
_TASK = ("kfp", *_STORE)  # KFP starts a task with `python3 -m kfp.dsl.executor_main`
_TORCH = ("torch", "torchvision")
_CAPTIONS = ("numpy", "PIL", "pyarrow", "mlxtend", "sklearn", "tqdm")
_CLUSTER = ("kubernetes", "urllib3", "yaml")


@dataclass(frozen=True)
class Role:
    """What one image is for.

    Attributes:
        modules: of stablerep; what a container of this role starts.
        packages: import names of what they import, directly or when they run.
    """

    modules: tuple[str, ...]
    packages: tuple[str, ...]

    @property
    def has_torch(self) -> bool:
        """Whether the image computes with torch."""
        return "torch" in self.packages


def _stages(*names: str) -> tuple[str, ...]:
    return tuple(f"stablerep.stages.{name}" for name in names)


ROLES: dict[str, Role] = {
    "runtime": Role(_stages("preflight", "gate", "hold", "finish"), (*_TASK, *_CLUSTER, *(name for name in _CAPTIONS if name != "PIL"))),
    "generate": Role(
        _stages("prepare", "generator", "generate", "commit"),  # a language model may write captions, a model may judge groups
        (
            *(*_TASK, *_TORCH, *_CAPTIONS, "accelerate", "diffusers", "huggingface_hub", "open_clip", "safetensors", "timm", "tokenizers"),
            "transformers",
        ),
    ),
    "train": Role(
        _stages("pretrain_worker", "pretrain", "export", "probe"),  # pretrain too: launch.backend=local starts its processes beside it
        (
            *_TASK,
            *_CLUSTER,
            *_TORCH,
            *_CAPTIONS,
            "deepspeed",
            "huggingface_hub",
            "onnx",
            "onnxscript",
            "safetensors",
            "scipy",
            "timm",
            "tokenizers",
            "torchx",
        ),
    ),
    "launch": Role(_stages("pretrain"), (*_TASK, *_CLUSTER, "torchx", "tqdm")),
    "serve": Role(
        (*_stages("deploy", "verify"), "stablerep.integrations.kserve_server", "stablerep.models.onnx_runtime"),
        (
            *(*_TASK, *_CLUSTER, *_TORCH, *_CAPTIONS, "fastapi", "grpc", "kserve", "onnxruntime", "orjson", "safetensors", "scipy", "timm"),
            "tokenizers",
        ),
    ),
    "features": Role(
        ("stablerep.integrations.feast_store", "stablerep.integrations.feast_cluster"),
        (*_TASK, "numpy", "feast", "pandas", "psycopg", "pyarrow"),
    ),
}
"""Name of the image without its prefix -> what it holds."""


def everything() -> Role:
    """All roles as one: an environment from `make setup`."""
    modules = [module for role in ROLES.values() for module in role.modules]
    packages = [package for role in ROLES.values() for package in role.packages]
    return Role(tuple(dict.fromkeys(modules)), tuple(dict.fromkeys(packages)))
