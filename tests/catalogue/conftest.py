"""A data set to register."""

import pytest

from stablerep.catalogue import GroupRow
from stablerep.records import DatasetRef


@pytest.fixture
def dataset() -> DatasetRef:
    return DatasetRef("dataset-1", "file:///groups/dataset-1", "sha", "prompts-1", "generator-1", 2, 3, 18, 6, {})


@pytest.fixture
def group_rows() -> list[GroupRow]:
    return [GroupRow(f"caption-{i}", f"a <b>bold</b> {i}", i // 2, 6, 2.0, 0.9 if i else None) for i in range(3)]
