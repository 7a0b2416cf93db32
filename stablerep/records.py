"""The nouns as frozen records: what one stage hands to the next.

A record is a few KB of JSON: ids, digests, totals and URIs, never data. It travels as a pipeline parameter, so equal content means
equal text and the pipeline cache hits. `to_json`/`from_json` are strict: a missing or an unknown field is a DataError.
"""

import json
from dataclasses import dataclass, field
from typing import Any, Self

from stablerep.errors import DataError
from stablerep.identity import canonical_json
from stablerep.typed import decode


@dataclass(frozen=True)
class Record:
    """Base of the records: canonical JSON both ways."""

    def to_json(self) -> str:
        """Canonical JSON text of this record."""
        return canonical_json(self)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a record back.

        Raises:
            DataError: the text is not JSON, or its fields are not those of the record.
        """
        try:
            return decode(cls, json.loads(text), where=cls.__name__)
        except (ValueError, TypeError) as error:
            raise DataError(f"expected a {cls.__name__} record, found {text[:80]!r}: {error}") from error


@dataclass(frozen=True)
class Caption(Record):
    """One cleaned caption. `caption_id` is a hash of the cleaned text; `metadata` is provenance (source row, label...)."""

    caption_id: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class PromptSet(Record):
    """The captions chosen for a data set, stored as Parquet under `uri`, split in `num_shards` equal work units."""

    prompt_set_id: str
    uri: str
    sha256: str
    num_captions: int
    num_shards: int
    num_lanes: int
    counts: dict[str, int]  # read, kept, empty, duplicate, truncated ...


@dataclass(frozen=True)
class GeneratorRef(Record):
    """A verified text-to-image model: where it is and what it is."""

    generator_id: str
    uri: str
    pipeline_class: str
    sha256: str
    revision: str
    licence: str
    size_px: int
    lora_uri: str = ""
    lora_sha256: str = ""


@dataclass(frozen=True)
class ShardRecord(Record):
    """Commit record of a shard; the shard is done if and only if this record exists and matches the file."""

    index: int
    name: str
    sha256: str
    size_bytes: int
    num_groups: int
    num_images: int
    counts: dict[str, int]  # images by quality verdict
    producer: dict[str, str]


@dataclass(frozen=True)
class LaneReport(Record):
    """What one lane did: shards it found or made, and what that cost."""

    lane: int
    dataset_id: str
    num_shards: int
    num_images: int
    num_images_made: int
    seconds: float


@dataclass(frozen=True)
class DatasetRef(Record):
    """A committed data set of image groups; `uri` holds spec.json, shards/ and manifest.json."""

    dataset_id: str
    uri: str
    manifest_sha256: str
    prompt_set_id: str
    generator_id: str
    num_shards: int
    num_groups: int
    num_images: int
    images_per_caption: int
    quality: dict[str, float]  # group purity, mean agreement ... where measured


@dataclass(frozen=True)
class CheckpointRef(Record):
    """The last committed checkpoint of a run."""

    run_key: str
    uri: str
    step: int
    num_steps: int
    fingerprint: str
    sha256: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class ModelRef(Record):
    """An exported encoder: safetensors, config, preprocessor, model card, lineage."""

    model_id: str
    uri: str
    sha256: str  # of encoder.safetensors
    architecture: str
    embedding_dim: int
    size_px: int
    has_text: bool


@dataclass(frozen=True)
class ProbeScore(Record):
    """Accuracy of one feature source under one probe, with a bootstrap interval."""

    source: str  # encoder | random_init | raw_pixels
    probe: str  # linear | linear_bn | knn | logistic | few_shot | zero_shot
    num_labels_per_class: int  # -1: all; 0: none (zero-shot)
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Evaluation(Record):
    """Probe results of a model on one suite of real images."""

    model_id: str
    suite: str
    uri: str
    headline: float
    headline_low: float
    headline_high: float
    scores: tuple[ProbeScore, ...]


@dataclass(frozen=True)
class GateDecision(Record):
    """Whether a model may be deployed, and why."""

    model_id: str
    is_promoted: bool
    reasons: tuple[str, ...]
    champion_id: str
    champion_accuracy: float


@dataclass(frozen=True)
class EndpointRef(Record):
    """A served encoder."""

    model_id: str
    url: str
    grpc_address: str
    process_id: int
    log_uri: str


@dataclass(frozen=True)
class Verification(Record):
    """What the endpoint answered to golden images and to a bad one."""

    model_id: str
    url: str
    max_difference: float
    latency_p50_ms: float
    latency_p99_ms: float
    checks: dict[str, bool]
