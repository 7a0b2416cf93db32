"""KFP component `commit`: shards become a data set."""

from kfp import dsl


@dsl.component(base_image="stablerep/runtime:0.1.0", install_kfp_package=False)
def commit(recipe: str, overrides: str, store: str, work: list[str], lanes: list[str], contact_sheet: dsl.Output[dsl.HTML]) -> str:
    """Verify every shard, write the manifest and a contact sheet, register the groups.

    Args:
        recipe: Name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
        work: What `prepare` returned.
        lanes: Records of all lanes.
        contact_sheet: Groups of images to look at.

    Returns:
        Record of the data set: its id, its manifest and the digest of that.
    """
    import json

    from stablerep.stages.dispatch import run_stage

    records = {name: json.loads(work[0])[name] for name in ("prompt_set", "generator")} | {"lanes": lanes}
    return run_stage("commit", recipe, overrides, store, **records, contact_sheet_path=contact_sheet.path)
