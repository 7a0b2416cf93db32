"""What the catalogue records: entities, tables and services, as plain data. Parquet schemas and Feast's objects are both made from it.

A table has a key, columns, an owner, the stage that registers it and a time to live. Every row has two times: `event_timestamp`, from when
on it is true, and `created`, when it was written down; as of a moment, the row with the latest of the former counts, then of the latter.
Embeddings are a table a model and space: vectors of two encoders have no distance, and a vector index holds one length.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false
import re
from dataclasses import dataclass
from datetime import timedelta

import pyarrow as pa

OWNER = "stablerep"
TEXT, WHOLE, REAL, TEXTS, VECTOR = pa.string(), pa.int64(), pa.float64(), pa.list_(pa.string()), pa.list_(pa.float32())
TIMESTAMP = pa.timestamp("us", tz="UTC")
TIMES = {"event_timestamp": TIMESTAMP, "created": TIMESTAMP}
SPACES = ("features", "beside_text")  # what the trunk gives, and the unit vectors that are compared with texts
_MODEL_ID = re.compile(r"[0-9A-Za-z-]{1,64}")
_HEADLINE = {"accuracy": REAL, "low": REAL, "high": REAL, "uri": TEXT}


@dataclass(frozen=True)
class Entity:
    """A thing that facts are about; `key` is the column that names it."""

    name: str
    key: str
    description: str


@dataclass(frozen=True)
class Table:
    """One table: a folder of Parquet files, a feature view in Feast.

    Attributes:
        name: of the folder and of the view.
        keys: columns that name a row.
        columns: every column but the times, with its type.
        stage: which stage registers rows.
        ttl_days: how long a row is true after its event time; 0 for ever.
        description: one sentence.
        not_served: columns that stay in Parquet.
    """

    name: str
    keys: tuple[str, ...]
    columns: dict[str, pa.DataType]
    stage: str
    ttl_days: int
    description: str
    not_served: tuple[str, ...] = ()

    @property
    def ttl(self) -> timedelta:
        """How long a row is true; zero for ever."""
        return timedelta(days=self.ttl_days)

    @property
    def schema(self) -> pa.Schema:
        """Of the Parquet files."""
        return pa.schema(self.columns | TIMES)

    @property
    def features(self) -> tuple[str, ...]:
        """Columns that are served online."""
        return tuple(name for name in self.columns if name not in self.keys and name not in self.not_served)


ENTITIES = (
    Entity("caption", "caption_id", "a text; the hash of its cleaned form"),
    Entity("group", "group_id", "a caption and its images in one data set: <dataset_id>/<caption_id>"),
    Entity("image", "image_id", "a stored image: <dataset_id>/<caption_id>/<place in the group>"),
    Entity("model", "model_id", "an exported encoder"),
    Entity("suite", "suite", "a probe on fixed images; accuracies of two suites are not compared"),
    Entity("endpoint", "endpoint", "the name under which an encoder is served"),
)
TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        Table(
            "captions",
            ("caption_id",),
            {"caption_id": TEXT, "caption": TEXT, "label": TEXT, "tags": TEXTS, "source": TEXT},
            stage="prepare",
            ttl_days=0,
            description="captions that may become prompts, with their class and tags",
        ),
        Table(
            "groups",
            ("group_id",),
            {
                "group_id": TEXT,
                "dataset_id": TEXT,
                "caption_id": TEXT,
                "caption": TEXT,
                "shard_index": WHOLE,
                "position": WHOLE,
                "num_images": WHOLE,
                "generator_id": TEXT,
                "guidance": REAL,
                "agreement": REAL,
                "scores": TEXT,  # every score of the group by name, JSON: scores come and go, the schema stays
            },
            stage="commit",
            ttl_days=3650,
            description="groups of committed data sets: where they are, how they were made, how good they are",
        ),
        Table(
            "evaluations",
            ("model_id", "suite"),
            {"model_id": TEXT, "suite": TEXT, **_HEADLINE, "record": TEXT},
            stage="probe",
            ttl_days=3650,
            description="what a model reached on a suite",
            not_served=("record",),
        ),
        Table(
            "champions",
            ("suite",),
            {"suite": TEXT, "model_id": TEXT, **_HEADLINE, "promoted_at": TEXT},
            stage="verify",
            ttl_days=0,
            description="the model promoted last on a suite",
        ),
        Table(
            "endpoints",
            ("endpoint",),
            {"endpoint": TEXT, "model_id": TEXT, "url": TEXT, "backend": TEXT, "revision": TEXT, "latency_p50_ms": REAL},
            stage="verify",
            ttl_days=0,
            description="the encoder that an endpoint was verified with last",
        ),
    )
}
SERVICES: dict[str, tuple[str, ...]] = {
    "prompts": ("captions",),
    "curation": ("groups",),
    "gate": ("champions",),
    "results": ("evaluations",),
    "serving": ("endpoints",),
}
"""Feature service -> the tables it serves."""


def embeddings_table(model_id: str, space: str) -> Table:
    """The table of one model's reference vectors in one space.

    Raises:
        ValueError: no such space, or an id that cannot name a folder.
    """
    if space not in SPACES or not _MODEL_ID.fullmatch(model_id):
        raise ValueError(f"expected a model id and one of {', '.join(SPACES)}, found {model_id!r} and {space!r}")
    return Table(
        f"{space}_{model_id.removeprefix('model-').replace('-', '_')}",
        ("image_id",),
        {
            "image_id": TEXT,
            "image": TEXT,  # the id again: answers to a vector search carry features, and their keys are not to be trusted
            "model_id": TEXT,
            "dataset_id": TEXT,
            "caption_id": TEXT,
            "caption": TEXT,
            "position": WHOLE,
            "image_index": WHOLE,
            "vector": VECTOR,
        },
        stage="probe",
        ttl_days=3650,
        description=f"{space.replace('_', ' ')} of the images that {model_id} is asked about",
        not_served=("model_id",),
    )
