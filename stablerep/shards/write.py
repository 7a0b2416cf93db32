"""Groups packed into one WebDataset tar, the same bytes for the same groups on any machine.

A group is `<caption_id>.json`, `<caption_id>.txt`, `<caption_id>.0.png` ... in this order, so that WebDataset readers gather it under one
key. USTAR headers with owner, group and time zero; nothing of the packing process gets in. Writing to a store is `dataset.commit_shard`.
"""

import io
import tarfile
from collections.abc import Iterator, Sequence

from stablerep.errors import ShardError
from stablerep.identity import canonical_json
from stablerep.shards.group import EXTENSIONS, ImageGroup


def pack_shard(groups: Sequence[ImageGroup]) -> bytes:
    """The tar of `groups`, in their order.

    Raises:
        ShardError: a caption occurs twice, image formats differ, or metadata is not plain JSON.
    """
    _check_unique(groups)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT, encoding="utf-8") as tar:
        for group in groups:
            for suffix, content in _members(group):
                member = tarfile.TarInfo(f"{group.caption.caption_id}.{suffix}")
                member.size, member.mode = len(content), 0o644
                tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def _members(group: ImageGroup) -> Iterator[tuple[str, bytes]]:
    facts = {
        "caption_id": group.caption.caption_id,
        "image_format": group.image_format,
        "num_images": len(group.images),
        "metadata": group.metadata,
    }
    try:
        yield "json", canonical_json(facts).encode("utf-8")
        yield "txt", group.caption.text.encode("utf-8")
    except (TypeError, ValueError) as error:  # also text that UTF-8 cannot express
        raise ShardError(f"group {group.caption.caption_id}: expected metadata of plain JSON and a UTF-8 text, found: {error}") from error
    extension = EXTENSIONS[group.image_format]
    for image_index, image in enumerate(group.images):
        yield f"{image_index}.{extension}", image


def _check_unique(groups: Sequence[ImageGroup]) -> None:
    seen = set[str]()
    for group in groups:
        caption_id = group.caption.caption_id
        if caption_id in seen:
            raise ShardError(f"expected every caption once in a shard, found {caption_id} twice; remove duplicates with captions.clean")
        seen.add(caption_id)
    formats = sorted({group.image_format for group in groups})
    if len(formats) > 1:
        raise ShardError(f"expected one image format in a shard, found {', '.join(formats)}; store all groups in the same format")
