"""generator: resolve and verify the text-to-image model, or fit the embedded one anew; run again, it finds the same model.

With `generator.fit=true` the fitted model is kept in the store under an id made of data, seed and step counts; a fit that was killed
continues from its last checkpoint. `generator.model=real:<data>` makes groups of real training images instead: then the record is theirs.
Nothing heavy is imported unless there is something to fit.
"""

import shlex
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from stablerep.config.schema import GeneratorConfig
from stablerep.groups.lora import resolve_lora
from stablerep.groups.model_folder import INDEX_FILE
from stablerep.groups.resolve import default_cache, is_real, resolve_generator
from stablerep.identity import content_id
from stablerep.records import GeneratorRef
from stablerep.stages.context import Stage, open_stage
from stablerep.telemetry.reporter import Progress


def run(recipe: str, overrides: str, store: str) -> GeneratorRef:
    """Verify the model of the recipe and return its record.

    Args:
        recipe: name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.

    Raises:
        DataError: the model is missing, incomplete, damaged, or a pickle.
    """
    with open_stage("generator", recipe, overrides, store) as stage:
        config = stage.recipe.generator
        if is_real(config.model):
            from stablerep.groups.real import resolve_real

            reference = resolve_real(config.model, config.licence)
        else:
            model = _fitted_model(stage, config, overrides) if config.fit else config.model
            _, reference = resolve_generator(model, config.revision, config.licence, stage.store)
            if config.lora:
                _, uri, sha256 = resolve_lora(config.lora)
                reference = replace(reference, lora_uri=uri, lora_sha256=sha256)
        stage.reporter.report("stablerep_run_info", 1, stage="generator", id=reference.generator_id)
        return reference


def _fitted_model(stage: Stage, config: GeneratorConfig, overrides: str) -> str:
    """`store:<key>` of the fitted model, made first if it is not there."""
    work = {
        "data": config.fit_data,
        "seed": config.fit_seed,
        "num_vae_steps": config.fit_num_vae_steps,
        "num_steps": config.fit_num_steps,
    }
    key = f"generators/{content_id('fit', work)}"
    if not stage.store.exists(f"{key}/{INDEX_FILE}"):
        local = stage.store.local_path(key)
        folder = local or default_cache() / Path(key).name
        folder.parent.mkdir(parents=True, exist_ok=True)
        command = shlex.join(["stablerep", "generator", "--recipe", stage.recipe.name, "--set", overrides])
        _fit(stage, config, folder, command)
        if local is None:
            names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
            for name in sorted(names, key=lambda name: name == INDEX_FILE):  # what makes it a model comes last
                stage.store.put(folder / name, f"{key}/{name}")
    return f"store:{key}"


def _fit(stage: Stage, config: GeneratorConfig, folder: Path, command: str) -> None:
    from stablerep.captions.packaged import load_packaged
    from stablerep.groups.fit import fit_generator

    data = load_packaged(config.fit_data)
    total = config.fit_num_vae_steps + config.fit_num_steps
    with ExitStack() as stack:
        bars: list[Progress] = []

        def on_step(phase: str, step: int, num_steps: int, loss: float) -> None:
            if not bars:  # a resumed fit does not begin at 0
                done = step if phase == "vae" else config.fit_num_vae_steps + step
                bars.append(stack.enter_context(stage.reporter.progress(total, "steps", done)))
            bars[0].advance(1, f"{phase} loss {loss:.4f}")

        fit_generator(
            data.images,
            data.captions,
            num_vae_steps=config.fit_num_vae_steps,
            num_steps=config.fit_num_steps,
            seed=config.fit_seed,
            output_dir=folder,
            notes={"data_name": config.fit_data, "licence": data.licence, "source": data.source, "command": command},
            on_step=on_step,
        )
