"""KFP component `export`: a checkpoint becomes an encoder."""

from kfp import dsl


@dsl.component(base_image="stablerep/train:0.1.0", install_kfp_package=False)
def export(recipe: str, overrides: str, store: str, dataset: str, generator: str, checkpoint: str, encoder: dsl.Output[dsl.Model]) -> str:
    """Write the encoder as safetensors with preprocessor, card and lineage.

    Args:
        recipe: Name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
        dataset: Record of `commit`.
        generator: Record of `generator`.
        checkpoint: Record of `pretrain`.
        encoder: The model's record: where it is and its digest.

    Returns:
        Record of the model: where it is and its digest.
    """
    import json
    from pathlib import Path

    from stablerep.stages.dispatch import run_stage

    model = run_stage("export", recipe, overrides, store, dataset=dataset, generator=generator, checkpoint=checkpoint)
    encoder.metadata.update(json.loads(model))
    Path(encoder.path).write_text(model)  # the record; the weights stay in the store
    return model
