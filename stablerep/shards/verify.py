"""Whether shards are what their records say, for commit (reads everything) and for readers (sizes first, digests once).

Hashing runs in a few threads (hashlib releases the interpreter lock). Nothing is written but an index that does not fit its tar, which
is remade from the tar: any number of processes may check one data set at once.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from stablerep.errors import DataError, ShardError, StoreError
from stablerep.identity import sha256_bytes
from stablerep.records import ShardRecord
from stablerep.shards import layout
from stablerep.shards.index import index_of, index_sha256
from stablerep.shards.manifest import CheckedShard, Manifest
from stablerep.store import Store

_verified_files = set[tuple[str, int, int, int, str]]()  # of this process: path, inode, size, change time, digest


def check_shards(store: Store, dataset_id: str, num_shards: int, on_shard: Callable[[ShardRecord], None] | None) -> list[CheckedShard]:
    """Read every shard whole and compare it with its record, in order.

    Raises:
        ShardError: names every shard that is missing, truncated or damaged.
    """
    checked: list[CheckedShard] = []
    problems: list[str] = []
    with ThreadPoolExecutor(num_threads()) as pool:
        for result in pool.map(partial(_check_shard, store, dataset_id), range(num_shards)):
            if isinstance(result, str):
                problems.append(result)
                continue
            checked.append(result)
            if on_shard is not None:
                on_shard(result.record)
    if problems:
        raise ShardError("\n".join(problems))
    return checked


def check_sizes(store: Store, manifest: Manifest) -> None:
    """Compare the sizes of all shards and indexes with the manifest; one listing, no reading.

    Raises:
        ShardError: names every shard that is missing or has another size.
    """
    sizes = store.sizes(layout.shards_folder(manifest.dataset_id))
    problems: list[str] = []
    for shard in manifest.shards:
        key, index_key = layout.shard_key(manifest.dataset_id, shard.index), layout.index_key(manifest.dataset_id, shard.index)
        problems += _size_problem(store, manifest.dataset_id, shard.index, key, shard.size_bytes, sizes.get(key))
        problems += _size_problem(store, manifest.dataset_id, shard.index, index_key, shard.index_size_bytes, sizes.get(index_key))
    if problems:
        raise ShardError("\n".join(problems))


def check_digests(store: Store, manifest: Manifest) -> None:
    """Hash all shards and compare with the manifest; a local file that did not change is hashed once a process.

    Raises:
        ShardError: names every shard whose bytes differ.
    """

    def check(position: int) -> str:
        shard = manifest.shards[position]
        key = layout.shard_key(manifest.dataset_id, shard.index)
        path = store.local_path(key)
        file = _file_state(path, shard.sha256) if path is not None else None
        if file in _verified_files:
            return ""
        if (found := store.sha256(key)) != shard.sha256:
            return damaged(store, manifest.dataset_id, shard.index, f"sha256 {shard.sha256}", f"sha256 {found}")
        if file is not None:
            _verified_files.add(file)
        return ""

    with ThreadPoolExecutor(num_threads()) as pool:
        problems = [problem for problem in pool.map(check, range(len(manifest.shards))) if problem]
    if problems:
        raise ShardError("\n".join(problems))


def damaged(store: Store, dataset_id: str, index: int, expected: str, found: str) -> str:
    """One sentence about a shard that is not what it should be."""
    where = store.uri_of(layout.shard_key(dataset_id, index))
    return f"shard {where}: expected {expected}, found {found}; {layout.remedy(store, dataset_id, index)}"


def num_threads() -> int:
    """Threads for hashing: a few, so that whole shards in memory stay few."""
    return min(4, os.cpu_count() or 1)


def _check_shard(store: Store, dataset_id: str, index: int) -> CheckedShard | str:
    """The shard, or what is wrong with it."""
    key, record_key = layout.shard_key(dataset_id, index), layout.record_key(dataset_id, index)
    try:
        record = ShardRecord.from_json(store.read_text(record_key))
    except StoreError:
        raise
    except DataError as error:
        return damaged(store, dataset_id, index, f"a commit record {Path(record_key).name}", f"none that can be read ({error})")
    if not store.exists(key):
        return damaged(store, dataset_id, index, f"{record.size_bytes} bytes", "no such object")
    packed = store.read(key)
    if len(packed) != record.size_bytes:
        return damaged(store, dataset_id, index, f"{record.size_bytes} bytes", f"{len(packed)} bytes{_cut(len(packed), record.size_bytes)}")
    if (found := sha256_bytes(packed)) != record.sha256:
        return damaged(store, dataset_id, index, f"sha256 {record.sha256}", f"sha256 {found}")
    built = index_of(packed)
    numbers = (index, len(built), built.total_images())
    if numbers != (record.index, record.num_groups, record.num_images):
        expected = f"shard {record.index} with {record.num_groups} groups and {record.num_images} images"
        return damaged(store, dataset_id, index, expected, f"shard {index} with {numbers[1]} groups and {numbers[2]} images")
    text = built.to_json(record.sha256)
    _keep_index(store, layout.index_key(dataset_id, index), text)
    return CheckedShard(record, built.image_format, index_sha256(text), len(text.encode("utf-8")))


def _keep_index(store: Store, key: str, text: str) -> None:
    if not store.exists(key) or store.read(key) != text.encode("utf-8"):
        store.write(key, text)


def _size_problem(store: Store, dataset_id: str, index: int, key: str, expected: int, found: int | None) -> Sequence[str]:
    if found == expected:
        return ()
    name = Path(key).name
    what = "no such object" if found is None else f"{found} bytes{_cut(found, expected)}"
    return (damaged(store, dataset_id, index, f"{name} of {expected} bytes", what),)


def _cut(found: int, expected: int) -> str:
    return " (cut short)" if found < expected else ""


def _file_state(path: Path, sha256: str) -> tuple[str, int, int, int, str]:
    state = path.stat()
    return str(path), state.st_ino, state.st_size, state.st_ctime_ns, sha256
