"""Random groups and small committed data sets."""

from collections.abc import Callable

import pytest
from made_groups import commit_dataset, prompt_set_of, random_groups

from stablerep.records import DatasetRef, PromptSet
from stablerep.shards.group import ImageGroup


@pytest.fixture
def make_groups() -> Callable[..., list[ImageGroup]]:
    return random_groups


@pytest.fixture
def prompt_set() -> PromptSet:
    return prompt_set_of(num_shards=4, num_groups=20)


@pytest.fixture
def make_dataset(prompt_set: PromptSet) -> Callable[..., DatasetRef]:
    def make(store, order=(0, 1, 2, 3), producer="lane-0", num_images=3):  # type: ignore[no-untyped-def]
        return commit_dataset(store, prompt_set, order, producer, num_images)

    return make
