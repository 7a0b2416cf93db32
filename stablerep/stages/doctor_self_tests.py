"""What each role does once, in seconds and without network, to show that its image works and not only imports.

A self-test returns what it found, in a few words, and raises whatever goes wrong.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from stablerep.config import RECIPES, load_recipe
from stablerep.errors import ConfigError
from stablerep.store import Store


def _runtime() -> str:
    for name in RECIPES:
        load_recipe(name)
    return f"{len(RECIPES)} recipes load"


def _generate() -> str:
    from stablerep.groups.embedded_models import embedded_path
    from stablerep.groups.model_folder import check_model, model_digest

    folder = embedded_path()
    return f"embedded generator is whole, sha256 {model_digest(folder, check_model(folder))[:12]}"


def _train() -> str:
    import torch

    from stablerep.models import build_trunk

    if not (Path(sys.executable).parent / "torchrun").exists() and shutil.which("torchrun") is None:
        raise ConfigError("torchrun is neither beside the interpreter nor on PATH")
    trunk = load_recipe("quickstart").pretrain.trunk
    images_B3HW = torch.zeros(2, 3, trunk.size_px, trunk.size_px)
    with torch.inference_mode():
        features_BF = build_trunk(**asdict(trunk))(images_B3HW)
    return f"torchrun is there; {trunk.architecture} gives features {tuple(features_BF.shape)}"


def _launch() -> str:
    from stablerep.integrations.torchx_app import app_def
    from stablerep.launch import TrainingJob

    job = TrainingJob("doctor", "stablerep.stages.pretrain_worker", ("store", "run"), num_processes=2, image="stablerep/train")
    return f"TorchX describes a job: {app_def(job).roles[0].entrypoint}"


def _serve() -> str:
    from stablerep.integrations.kserve_model import EncoderModel
    from stablerep.integrations.kserve_transport import EncoderServer

    return f"KServe serves {EncoderModel.__name__} through {EncoderServer.__name__}"


def _features() -> str:
    from stablerep.integrations.feast_store import FeastCatalogue

    with tempfile.TemporaryDirectory() as folder:
        catalogue = FeastCatalogue(Store(Path(folder).as_uri()))
        catalogue.sync()
        return f"Feast registers {', '.join(sorted(view.name for view in catalogue.feature_store().list_feature_views()))}"


SELF_TESTS: dict[str, Callable[[], str]] = {
    "runtime": _runtime,
    "generate": _generate,
    "train": _train,
    "launch": _launch,
    "serve": _serve,
    "features": _features,
}
"""Role -> its self-test."""
