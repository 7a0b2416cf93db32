"""What each stage of a recipe returned, kept in the store so that the next command, the exit task and the report can find it.

The key is the recipe and the fingerprint of its configuration, without `launch` and `deploy`, which say where and not what; it is never a
run id. So a task that was served from the pipeline's cache left the same entry when it ran, and a run that moves to a cluster finds what it
left here. Every entry also says which inputs went in and when, which is how the graph that ran is checked against the graph that was
compiled.
"""

import dataclasses
import json
from dataclasses import dataclass

from stablerep.config import CLUSTER_SECTIONS, Recipe, fingerprint
from stablerep.errors import DataError
from stablerep.identity import sha256_bytes
from stablerep.records import Record
from stablerep.stages import STAGES
from stablerep.store import Store


@dataclass(frozen=True)
class Entry(Record):
    """One finished stage (or lane): what it returned, from what, when (Unix seconds)."""

    name: str
    output: str  # the record as JSON text
    inputs: dict[str, str]  # argument name -> SHA-256 of its JSON text
    started_at: float
    ended_at: float


class Ledger:
    """Entries of one configuration in one store."""

    def __init__(self, store: Store, recipe: Recipe) -> None:
        decisive = {name: value for name, value in dataclasses.asdict(recipe).items() if name not in CLUSTER_SECTIONS}
        self.key = f"{recipe.name}-{fingerprint(decisive)[:16]}"
        self._store = store

    def keep(self, entry: Entry) -> None:
        """Write or replace an entry; one that took and returned the same keeps its times, which say what the work cost."""
        known = self.find(entry.name)
        if known and (known.output, known.inputs) == (entry.output, entry.inputs):
            return
        self._store.write(f"ledger/{self.key}/{entry.name}.json", entry.to_json())

    def find(self, name: str) -> Entry | None:
        """The entry of a stage, or None."""
        key = f"ledger/{self.key}/{name}.json"
        return Entry.from_json(self._store.read_text(key)) if self._store.exists(key) else None

    def entries(self) -> list[Entry]:
        """All entries in the order of the stages."""
        found = [Entry.from_json(self._store.read_text(key)) for key in self._store.list(f"ledger/{self.key}")]
        return sorted(found, key=lambda entry: (STAGES.index(entry.name.partition("-")[0]), entry.name))

    def output(self, name: str) -> str:
        """The record a stage returned, as JSON text.

        Raises:
            DataError: the stage has not run for this recipe and these overrides.
        """
        entry = self.find(name)
        if entry is None:
            raise DataError(
                f"expected the result of stage {name!r} for {self.key} in {self._store.uri}, found none; run that stage first "
                "(results are kept for each recipe with its overrides: pass the same --set to every stage)"
            )
        return entry.output


def text_digest(value: object) -> str:
    """SHA-256 of an argument as it travelled: text as it is, anything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value)
    return sha256_bytes(text.encode("utf-8"))
