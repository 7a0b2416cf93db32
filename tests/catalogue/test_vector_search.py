"""Vector search is exact, ids belong to their features, and Parquet and Feast answer the same; Feast's own table does not."""

from typing import Any

import numpy as np
import pytest
from known_models import MODEL, D, reference

from stablerep.catalogue import ParquetCatalogue, Reference
from stablerep.catalogue.nearest import nearest
from stablerep.catalogue.tables import embeddings_table
from stablerep.errors import ConfigError, DataError
from stablerep.integrations.feast_store import FeastCatalogue
from stablerep.store import Store

WHEN = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def queries_QD() -> Any:
    return np.random.default_rng(1).normal(size=(20, D))


def by_loops(made: Reference, query: Any, count: int) -> list[tuple[str, str]]:
    """Ids and captions, nearest first, one cosine at a time."""
    found: list[tuple[float, str, str]] = []
    for image, vector in zip(made.images, made.vectors_ND.astype(np.float64), strict=True):
        dot = sum(float(a) * float(b) for a, b in zip(vector, query, strict=True))
        norm = sum(float(a) ** 2 for a in vector) ** 0.5 * sum(float(b) ** 2 for b in query) ** 0.5
        found.append((round(1 - dot / norm, 9), image.image_id, image.caption))
    return [(image_id, caption) for _, image_id, caption in sorted(found)[:count]]


def test_parquet_is_exact(store: Store, queries_QD: Any) -> None:
    made = reference()
    ParquetCatalogue(store).register_reference(made, WHEN)
    for query in [*queries_QD, made.vectors_ND[5]]:
        found = ParquetCatalogue(store).nearest(MODEL, "features", query.tolist(), 10)
        assert [(n.image.image_id, n.image.caption) for n in found] == by_loops(made, query, 10)
        assert [n.distance for n in found] == sorted(n.distance for n in found)
    assert found[0].image.position == 5  # 035 before 049: equally near, by id
    assert found[1].image.position == 7
    assert found[0].distance == found[1].distance == pytest.approx(0, abs=1e-6)


def test_feast_answers_the_same_and_its_own_table_does_not(store: Store, queries_QD: Any) -> None:
    """`to_df` of Feast 0.67 puts keys beside other rows' features; when this fails, Feast was mended and `nearest` can be simpler."""
    made, feast = reference(), FeastCatalogue(store)
    feast.register_reference(made, WHEN)
    feast.register_reference(reference(2, "beside_text", d=8), WHEN)
    feast.register_reference(reference(3, model_id="model-other"), WHEN)
    name, wrong, unsorted = embeddings_table(MODEL, "features").name, 0, 0
    for query in [*queries_QD, made.vectors_ND[5]]:
        found = feast.nearest(MODEL, "features", query.tolist(), 10)
        assert found == ParquetCatalogue(store).nearest(MODEL, "features", query.tolist(), 10)
        answer = feast.feature_store().retrieve_online_documents_v2(
            features=[f"{name}:image"], query=query.tolist(), top_k=10, distance_metric="cosine"
        )
        table = answer.to_df()
        wrong += int((table["image_id"] != table["image"]).sum())
        unsorted += not table["distance"].is_monotonic_increasing
        assert set(table["image"]) == {n.image.image_id for n in found}
    assert wrong > 100
    assert unsorted > 15
    beside = feast.nearest(MODEL, "beside_text", [1.0] * 8, 3)
    assert beside == ParquetCatalogue(store).nearest(MODEL, "beside_text", [1.0] * 8, 3)
    service = feast.feature_store().get_feature_service("neighbours")
    assert len(service.feature_view_projections) == 3


def test_a_reference_set_that_changed_is_searched_anew(store: Store, queries_QD: Any) -> None:
    feast, query = FeastCatalogue(store), queries_QD[0].tolist()
    feast.register_reference(reference(), WHEN)
    before = feast.nearest(MODEL, "features", query, 5)
    ParquetCatalogue(store).register_reference(reference(9), WHEN)
    assert feast.nearest(MODEL, "features", query, 5) == ParquetCatalogue(store).nearest(MODEL, "features", query, 5) != before


def test_refusals(store: Store) -> None:
    parquet, feast = ParquetCatalogue(store), FeastCatalogue(store)
    parquet.register_reference(reference(), WHEN)
    for catalogue in (parquet, feast):
        with pytest.raises(DataError, match=r"model-none: expected features of a reference set in .* run probe again"):
            catalogue.nearest("model-none", "features", [0.0] * D, 3)
        with pytest.raises(DataError, match="expected a query of 24 numbers as the reference set has, found 3"):
            catalogue.nearest(MODEL, "features", [1.0, 2.0, 3.0], 3)
        with pytest.raises(DataError, match="expected finite numbers"):
            catalogue.nearest(MODEL, "features", [float("nan")] * D, 3)
    name = embeddings_table(MODEL, "features").name
    with pytest.raises(ConfigError, match="expected a vector and the distance cosine, found distance 'cosine', text 'bus'"):
        feast.feature_store().retrieve_online_documents_v2(features=[f"{name}:image"], query=[1.0] * D, query_string="bus", top_k=1)
    with pytest.raises(ValueError, match="expected a model id and one of features, beside_text"):
        embeddings_table("../up", "features")


def test_more_are_asked_for_than_there_are(store: Store) -> None:
    assert [place for place, _ in nearest(np.eye(3), ["b", "a", "c"], [0.0, 0.0, 1.0], 9)] == [2, 1, 0]
