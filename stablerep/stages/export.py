"""export: the final checkpoint becomes an encoder that needs neither DeepSpeed nor the training code.

The projection head is dropped. The folder is named by its content; its SHA256SUMS is written last and makes it count, so a kill leaves
nothing that looks finished and equal runs give equal bytes. Nothing that is digested holds a time or a place.
"""

import tempfile
from pathlib import Path

from stablerep.errors import CheckpointError, DataError, StoreError
from stablerep.identity import digest, sha256_bytes
from stablerep.records import CheckpointRef, DatasetRef, GeneratorRef, ModelRef
from stablerep.stages.context import open_stage
from stablerep.stages.export_card import Origin, lineage_json, model_card, training_facts
from stablerep.stages.export_norms import add_norms
from stablerep.stages.lineage import refresh
from stablerep.stages.pretrain_run import MODEL_KEY, plan_run
from stablerep.store import Store
from stablerep.training.checkpoint import Checkpoints, step_prefix
from stablerep.training.state import TOKENIZER_KEY, WEIGHTS_NAME

_FORMAT = 3  # of what is written here; another number exports anew
_SUMS, _ONNX = "SHA256SUMS", "encoder.onnx"


def run(recipe: str, overrides: str, store: str, *, dataset: str, generator: str, checkpoint: str) -> ModelRef:
    """Export a finished run.

    Args:
        recipe: name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
        dataset: record of `commit`.
        generator: record of `generator`.
        checkpoint: record of `pretrain`.

    Raises:
        CheckpointError: the checkpoint is not that of these records and settings, or is gone or damaged.
    """
    data, maker, final = DatasetRef.from_json(dataset), GeneratorRef.from_json(generator), CheckpointRef.from_json(checkpoint)
    with open_stage("export", recipe, overrides, store) as stage:
        plan = plan_run(recipe, stage.recipe.pretrain, data)
        if plan.fingerprint != final.fingerprint or maker.generator_id != data.generator_id:
            raise CheckpointError(
                f"expected the checkpoint of {plan.run_key} (these settings, data set {data.dataset_id}, generator {data.generator_id}), "
                f"found that of {final.run_key} and generator {maker.generator_id}; pass the records of one run"
            )
        origin = Origin(plan, maker, final, _captions_sha256(stage.store, data))
        runs = stage.store.at(plan.prefix)
        done_key = f"exports/{digest([_FORMAT, origin])[:16]}.json"
        has_onnx = stage.recipe.deploy.runtime_engine == "onnx"
        done = _find_done(stage.store, runs, done_key, has_onnx)
        if done is None:
            done = _export(stage.store, runs, origin, has_onnx)
            runs.write(done_key, done.to_json())
            refresh(stage.store, done.model_id)
        stage.reporter.report("stablerep_run_info", 1, stage="export", id=done.model_id)
        return done


def _find_done(store: Store, runs: Store, key: str, has_onnx: bool) -> ModelRef | None:
    try:
        done = ModelRef.from_json(runs.read_text(key)) if runs.exists(key) else None
    except StoreError:
        raise
    except DataError:
        return None
    sums_key = f"models/{done.model_id}/{_SUMS}" if done else ""
    if not done or not store.exists(sums_key):
        return None
    return done if not has_onnx or f"  {_ONNX}\n" in store.read_text(sums_key) else None


def _export(store: Store, runs: Store, origin: Origin, has_onnx: bool) -> ModelRef:
    import json

    from safetensors.torch import load

    from stablerep.models import ModelSpec, build_two_tower, default_preprocessor, save_encoder
    from stablerep.typed import decode

    spec = decode(ModelSpec, json.loads(runs.read_text(MODEL_KEY)), where=MODEL_KEY)
    model = build_two_tower(spec)
    model.load_state_dict(load(_weights(runs, origin)))
    with tempfile.TemporaryDirectory(prefix="stablerep-export-") as name:
        folder = Path(name)
        saved = save_encoder(
            folder,
            model,
            config=training_facts(origin),
            preprocessor=default_preprocessor(spec.trunk.size_px),
            tokenizer_json=runs.read_text(TOKENIZER_KEY) if spec.text else "",
        )
        done = ModelRef(
            model_id=saved.model_id,
            uri=store.uri_of(f"models/{saved.model_id}"),
            sha256=saved.sha256,
            architecture=spec.trunk.architecture,
            embedding_dim=saved.embedding_dim,
            size_px=spec.trunk.size_px,
            has_text=saved.has_text,
        )
        for file, text in (("MODEL_CARD.md", model_card(origin, done)), ("lineage.json", lineage_json(origin, done))):
            (folder / file).write_text(text, encoding="utf-8")  # later stages add what they find: not in the list of digests
        add_norms(folder, store, origin.plan.dataset)
        if has_onnx:
            from stablerep.models.formats import add_onnx

            add_onnx(folder)
        _publish(folder, store, f"models/{saved.model_id}")
    return done


def _weights(runs: Store, origin: Origin) -> bytes:
    """The full weights, as the checkpoint's record has them."""
    final = origin.checkpoint
    record = Checkpoints(runs, final.run_key, final.fingerprint).read(final.step)
    file = record.file(WEIGHTS_NAME)
    where = runs.uri_of(f"{step_prefix(final.step)}/{file.name if file else WEIGHTS_NAME}")
    content = runs.read(f"{step_prefix(final.step)}/{file.name}") if file else b""
    if (found := sha256_bytes(content)) != final.sha256:
        raise CheckpointError(
            f"{where}: expected weights with sha256 {final.sha256[:16]}, found {found[:16]}; remove {runs.uri_of('checkpoints')} and "
            "run pretrain again"
        )
    return content


def _publish(folder: Path, store: Store, key: str) -> None:
    """Copy the files to the store, the list of digests last."""
    store.delete(f"{key}/{_SUMS}")
    for path in sorted(folder.iterdir(), key=lambda path: (path.name == _SUMS, path.name)):
        store.put(path, f"{key}/{path.name}")


def _captions_sha256(store: Store, data: DatasetRef) -> str:
    """Digest of the prompt set's manifest; empty when the captions are kept elsewhere."""
    key = f"captions/{data.prompt_set_id}/manifest.json"
    return store.sha256(key) if store.exists(key) else ""
