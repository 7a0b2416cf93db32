"""Parts of the API server's documents, where any field may be missing or null."""

from typing import Any, cast

from stablerep.cluster import Document


def part(document: Document, *path: str) -> Document:
    """The object at a path; empty where it is missing."""
    found: Any = document
    for key in path:
        found = cast("Document", found).get(key) or {}
    return cast("Document", found)


def rows(document: Document, *path: str) -> list[Document]:
    """The list of objects at a path; empty where it is missing."""
    return cast("list[Document]", part(document, *path[:-1]).get(path[-1]) or [])


def name_of(document: Document) -> str:
    """Of an object."""
    return str(document["metadata"]["name"])


def uid_of(document: Document) -> str:
    """Of an object; empty where the server gave none."""
    return str(document["metadata"].get("uid", ""))


def annotation_of(document: Document, name: str) -> str:
    """An annotation, empty where it is missing."""
    return str(part(document, "metadata", "annotations").get(name, ""))


def is_being_deleted(document: Document) -> bool:
    """Whether its deletion was asked for."""
    return bool(document["metadata"].get("deletionTimestamp"))
