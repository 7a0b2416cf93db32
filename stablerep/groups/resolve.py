"""From what a user names - `embedded:mnist`, a folder, a URI, a hub id - to a verified local folder and its record.

A model is identified by the digest of its files, never by its name. Remote folders are downloaded once to a cache keyed by that digest;
whoever works from a record checks the digest again. URIs in records are portable where they can be: `embedded:<name>`, `store:<key>` (in
the store of the run), `hub:<id>` with the commit in `revision`. No model library is imported; nothing is converted.
"""

import logging
import os
import re
import shutil
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path

from stablerep.errors import DataError
from stablerep.groups.embedded_models import embedded_path
from stablerep.groups.model_folder import (
    CARD_FILE,
    INDEX_FILE,
    UNSTATED,
    check_model,
    content_files,
    image_size_px,
    model_digest,
    model_index,
    refuse_pickles,
    stated_licence,
)
from stablerep.identity import content_id
from stablerep.records import GeneratorRef
from stablerep.store import Store

log = logging.getLogger("stablerep")

REAL = "real:"  # before a data set of images: nothing is generated (`groups.real`)

_HUB_FILES = [INDEX_FILE, CARD_FILE, "*/*.json", "*/*.txt", "*/*.model", "*/*.jinja", "*/*.safetensors"]
_HUB_IGNORED = ["safety_checker/*", "*.fp16.*", "*.non_ema.*", "*.bf16.*"]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve_generator(model: str, revision: str, licence: str, store: Store, cache_folder: Path | None = None) -> tuple[Path, GeneratorRef]:
    """Find and verify a text-to-image model.

    Args:
        model: `embedded:<name>`, `store:<key>`, a local folder, the URI of a folder, or a hub id.
        revision: of a hub id: branch, tag or commit; empty for the main branch.
        licence: what the user accepts; empty for what the model's card says.
        store: of the run.
        cache_folder: where remote models are kept; default in the user's cache folder.

    Returns:
        The local folder and the record of the model.

    Raises:
        DataError: there is no such model, or it is incomplete, damaged, or a pickle.
        StoreError: a URI cannot be read.
    """
    cache = cache_folder or default_cache()
    folder, uri, revision = _local_folder(model, revision, store, cache)
    index = check_model(folder)
    sha256 = model_digest(folder, index)
    licence = licence or stated_licence(folder)
    if licence == UNSTATED:
        log.warning("%s states no licence; say which one you accept with --set generator.licence=...", model)
    reference = GeneratorRef(
        generator_id=content_id("generator", sha256),
        uri=uri,
        pipeline_class=index["_class_name"],
        sha256=sha256,
        revision=revision,
        licence=licence,
        size_px=image_size_px(folder, index),
    )
    return folder, reference


def locate_generator(reference: GeneratorRef, store: Store, cache_folder: Path | None = None) -> Path:
    """The verified local folder of a model that was resolved before, on this machine or on another.

    Raises:
        DataError: it is not there any more, or is not what the record says.
    """
    cache = cache_folder or default_cache()
    cached = cache / reference.sha256
    if cached.is_dir():
        if _is_intact(cached, reference.sha256):
            return cached
        shutil.rmtree(cached)
    folder, _, _ = _local_folder(reference.uri, reference.revision, store, cache)
    found = model_digest(folder, check_model(folder))
    if found != reference.sha256:
        raise DataError(
            f"{reference.uri}: expected the model with digest {reference.sha256[:16]}..., found {found[:16]}...; it changed since stage "
            "generator ran: run that stage again, or put the model back"
        )
    return folder


def is_real(uri: str) -> bool:
    """Whether a model's name or the URI of its record means real images instead of a model."""
    return uri.startswith(REAL)


def default_cache() -> Path:
    """Where remote models are kept: the user's cache folder, or the temporary one where there is no writable home."""
    with suppress(RuntimeError):  # no home at all
        if os.access(Path.home(), os.W_OK):
            return Path.home() / ".cache" / "stablerep" / "generators"
    return Path(tempfile.gettempdir()) / "stablerep-generators"


def _local_folder(model: str, revision: str, store: Store, cache: Path) -> tuple[Path, str, str]:
    """Local folder, portable URI and exact revision of a model."""
    if model.startswith("embedded:"):
        return embedded_path(model.removeprefix("embedded:")), model, revision
    if model.startswith("store:"):
        return _from_uri(store.uri_of(model.removeprefix("store:")), cache), model, revision
    if "://" in model:
        return _from_uri(model, cache), Store(model).uri, revision
    if model.startswith("hub:"):
        return _from_hub(model.removeprefix("hub:"), revision)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder, Store(str(folder)).uri, revision
    if _HUB_ID.fullmatch(model):
        return _from_hub(model, revision)
    raise DataError(
        f"generator.model {model!r}: expected embedded:<name>, an existing folder, the URI of a folder (file://, s3://, gs://) or a hub id "
        f"owner/name, found none of them; {folder.absolute()} does not exist"
    )


def _from_uri(uri: str, cache: Path) -> Path:
    """The folder at a URI, downloaded to the cache where it is remote."""
    source = Store(uri)
    if path := source.local_path(INDEX_FILE):
        return path.parent
    names = source.list()
    if INDEX_FILE not in names:
        raise DataError(
            f"{uri}: expected a diffusers pipeline folder with {INDEX_FILE}, found {len(names)} files without it; correct the URI"
        )
    staging = cache / f"downloading-{uuid.uuid4().hex}"
    try:
        index = model_index(source.get(INDEX_FILE, staging / INDEX_FILE).parent)
        refuse_pickles(names, index, uri)
        for name in [*content_files(names, index), *(name for name in names if name == CARD_FILE)]:
            source.get(name, staging / name)
        folder = cache / model_digest(staging, index)
        if not folder.is_dir():
            staging.replace(folder)
        return folder
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _from_hub(name: str, revision: str) -> tuple[Path, str, str]:
    """Folder, URI and commit of a hub model, from the local hub cache or the network."""
    from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]
    from huggingface_hub.errors import HfHubHTTPError

    try:
        snapshot = snapshot_download(name, revision=revision or None, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_IGNORED)
    except (OSError, ValueError, HfHubHTTPError) as error:
        at = f" --revision {revision}" if revision else ""
        raise DataError(
            f"generator.model {name!r}: expected a folder of that name or a model of the hub, found no such folder and no answer from the "
            f"hub ({type(error).__name__}); without network, download it first where there is one (`hf download {name}{at} --local-dir "
            "FOLDER`) and pass the folder: --set generator.model=FOLDER"
        ) from error
    return Path(snapshot), f"hub:{name}", Path(snapshot).name


def _is_intact(folder: Path, sha256: str) -> bool:
    try:
        return model_digest(folder, model_index(folder)) == sha256
    except (DataError, OSError):
        return False
