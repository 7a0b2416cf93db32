"""An exported encoder in the formats of others: one ONNX file, or a folder that timm loads; compared with the encoder before it counts.

    encoder.onnx   input `image` float32 [N, 3, S, S], prepared as its metadata `preprocessor` says; output `embedding` float32 [N, F]; N is
                   free; metadata `model_id`, `preprocessor`, `format`
    timm folder    config.json, model.safetensors: `timm.create_model("local-dir:FOLDER", pretrained=True)`

Only the trunk: text towers stay with us. The onnx package is needed for ONNX, and nothing else here imports it.

Dimension key: N images, S pixels a side, F trunk features.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
import io
import json
import logging
import shutil
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from stablerep.errors import ConfigError
from stablerep.identity import sha256_bytes
from stablerep.models.digests import read_sums, write_bytes, write_sums
from stablerep.models.encoder import Encoder
from stablerep.models.folder import ENCODER, load_encoder
from stablerep.models.onnx_trunk import ONNX_FILE, OnnxTrunk, difference_of, random_images

ONNX_FORMAT = "stablerep-onnx-1"
_OPSET = 18


def write_onnx(folder: Path, to: Path) -> float:
    """Write `encoder.onnx` and SHA256SUMS.

    Args:
        folder: of an exported encoder.
        to: a folder; made where missing.

    Returns:
        The largest difference between its embeddings and the encoder's.

    Raises:
        CheckpointError: the encoder is damaged, or the ONNX file answers differently; nothing is written then.
        ConfigError: the onnx package is missing.
    """
    content, difference = _compared(load_encoder(folder))
    to.mkdir(parents=True, exist_ok=True)
    write_bytes(to / ONNX_FILE, content)
    write_sums(to, {ONNX_FILE: sha256_bytes(content)})
    return difference


def add_onnx(folder: Path) -> None:
    """Put `encoder.onnx` beside the weights of an exported encoder and in its digests; the id of the model stays.

    Raises:
        CheckpointError, ConfigError: as `write_onnx`.
    """
    content, _ = _compared(load_encoder(folder))
    write_bytes(folder / ONNX_FILE, content)
    write_sums(folder, read_sums(folder) | {ONNX_FILE: sha256_bytes(content)})


def write_timm(folder: Path, to: Path) -> float:
    """Write a folder that timm loads.

    Args:
        folder: of an exported encoder.
        to: a folder; made where missing.

    Returns:
        The largest difference between the embeddings of what timm loads from it and the encoder's.

    Raises:
        CheckpointError: the encoder is damaged, or timm's answers differ.
    """
    import timm

    encoder = load_encoder(folder)
    to.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / ENCODER, to / "model.safetensors")
    write_bytes(to / "config.json", (json.dumps(timm_config(encoder), indent=1, sort_keys=True) + "\n").encode("utf-8"))
    loaded = timm.create_model(f"local-dir:{to}", pretrained=True)
    difference = difference_of(encoder, loaded.eval(), str(to))
    write_sums(to, {name: sha256_bytes((to / name).read_bytes()) for name in ("config.json", "model.safetensors")})
    return difference


def _compared(encoder: Encoder) -> tuple[bytes, float]:
    content = onnx_bytes(encoder)
    return content, difference_of(encoder, runnable(content), ONNX_FILE)


def runnable(content: bytes) -> Callable[[Tensor], Tensor]:
    """An ONNX encoder as ONNX Runtime runs it; where that is not installed, as the onnx package's reference evaluator does (slow)."""
    try:
        return OnnxTrunk(content, ONNX_FILE)
    except ConfigError:
        import onnx
        from onnx.reference import ReferenceEvaluator

        evaluator: Any = ReferenceEvaluator(onnx.load_from_string(content))
    return lambda images_N3SS: torch.from_numpy(np.asarray(evaluator.run(["embedding"], {"image": images_N3SS.numpy()})[0], np.float32))


def onnx_bytes(encoder: Encoder) -> bytes:
    """The trunk as an ONNX model, weights inside.

    Raises:
        ConfigError: the onnx package is missing.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise ConfigError(f"ONNX: expected the packages onnx and onnxscript, found none ({error}); install stablerep[train]") from error
    images_N3SS = random_images(encoder.size_px, 2)
    logging.getLogger("torch.onnx").setLevel(logging.WARNING)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter about itself
        program = cast("Any", torch.onnx.export)(
            encoder.trunk,
            (images_N3SS,),
            input_names=["image"],
            output_names=["embedding"],
            dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )
    model = program.model_proto
    facts = {"format": ONNX_FORMAT, "model_id": encoder.model_id, "preprocessor": json.dumps(asdict(encoder.preprocessor), sort_keys=True)}
    onnx.helper.set_model_props(model, facts)
    for node in model.graph.node:
        del node.metadata_props[:]  # places in source files of the machine that exported
        node.doc_string = ""
    content = io.BytesIO()
    onnx.save(model, content)
    return content.getvalue()


def timm_config(encoder: Encoder) -> dict[str, Any]:
    """config.json as timm reads it: architecture, shape, and how images are prepared."""
    trunk, preprocessor = encoder.spec.trunk, encoder.preprocessor
    shape = {"patch_size": trunk.patch_px, "embed_dim": trunk.width, "depth": trunk.depth, "num_heads": trunk.num_heads}
    shape |= {"mlp_ratio": trunk.mlp_ratio}
    return {
        "architecture": trunk.architecture,
        "num_classes": 0,
        "num_features": encoder.embedding_dim,
        "global_pool": "token",
        "model_args": {"img_size": trunk.size_px, **{name: value for name, value in shape.items() if value}},
        "pretrained_cfg": {
            "tag": encoder.model_id,
            "custom_load": False,
            "input_size": [3, encoder.size_px, encoder.size_px],
            "fixed_input_size": True,
            "interpolation": preprocessor.interpolation,
            "crop_pct": preprocessor.crop / preprocessor.resize,
            "crop_mode": "center",
            "mean": list(preprocessor.mean),
            "std": list(preprocessor.std),
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
