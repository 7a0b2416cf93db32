"""Where the parts of a data set are in the store, and what to do when one is damaged.

groups/<dataset_id>/spec.json
groups/<dataset_id>/shards/00042.tar, 00042.index.json, 00042.json
groups/<dataset_id>/parts/00042/00007.part      while shard 42 is being made
groups/<dataset_id>/manifest.json
groups/<dataset_id>/contact_sheet.html           sheets/lane-0.html until then
"""

from stablerep.store import Store


def folder(dataset_id: str) -> str:
    """The folder of a data set."""
    return f"groups/{dataset_id}"


def spec_key(dataset_id: str) -> str:
    """What decides the content."""
    return f"{folder(dataset_id)}/spec.json"


def manifest_key(dataset_id: str) -> str:
    """Written last: what the data set holds."""
    return f"{folder(dataset_id)}/manifest.json"


def shards_folder(dataset_id: str) -> str:
    """The folder of the shards."""
    return f"{folder(dataset_id)}/shards"


def parts_folder(dataset_id: str, index: int | None = None) -> str:
    """The folder of the groups of a shard that is not finished, or of all such shards."""
    return f"{folder(dataset_id)}/parts" + ("" if index is None else f"/{index:05d}")


def sheet_key(dataset_id: str) -> str:
    """Groups to look at."""
    return f"{folder(dataset_id)}/contact_sheet.html"


def lane_sheets_folder(dataset_id: str) -> str:
    """The folder of the groups to look at while they are made, a page a lane; the committed data set has one for all."""
    return f"{folder(dataset_id)}/sheets"


def shard_name(index: int) -> str:
    """File name of a shard."""
    return f"{index:05d}.tar"


def shard_key(dataset_id: str, index: int) -> str:
    """The tar of a shard."""
    return f"{shards_folder(dataset_id)}/{shard_name(index)}"


def index_key(dataset_id: str, index: int) -> str:
    """What is where in the tar."""
    return f"{shards_folder(dataset_id)}/{index:05d}.index.json"


def record_key(dataset_id: str, index: int) -> str:
    """The commit record of a shard, written after its tar and index."""
    return f"{shards_folder(dataset_id)}/{index:05d}.json"


def remedy(store: Store, dataset_id: str, index: int) -> str:
    """How a damaged shard is made anew; a manifest that is there already is made again, in case the new shard differs."""
    record = store.uri_of(record_key(dataset_id, index))
    if not store.exists(manifest_key(dataset_id)):
        return f"delete {record} and run generate again (only this shard is made anew)"
    manifest = store.uri_of(manifest_key(dataset_id))
    return f"delete {record} and {manifest}, then run generate and commit again (only this shard is made anew)"
