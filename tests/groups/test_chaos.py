"""kill -9 over concurrent lanes: nothing lost, nothing twice, nothing cut short, little redone; `make chaos` does it 100 times."""

from pathlib import Path

import chaos
import pytest

from stablerep.groups.inspection import Policy
from stablerep.store import Store


@pytest.mark.dist
@pytest.mark.slow
def test_kill_9_at_random_moments_over_four_lanes(tmp_path: Path, store: Store) -> None:
    result = chaos.run(tmp_path, store, 8)
    assert result.num_kills == 8
    assert result.is_frugal, result.line()


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("policy", ["drop", "regenerate"])
def test_kill_9_while_images_are_taken_out_or_made_again(tmp_path: Path, store: Store, policy: Policy) -> None:
    """A group that waits for images to be made again is in hand beside those of the running batch: more than one may be lost in a kill."""
    result = chaos.run(tmp_path, store, 2, num_workers=2, policy=policy)
    assert result.num_kills == 2
    assert result.redone.total() <= 6 * 2, result.line()


@pytest.mark.dist
def test_lanes_on_a_real_object_store_killed_and_continued(tmp_path: Path, s3_store_uri: str) -> None:
    result = chaos.run(tmp_path, Store(s3_store_uri), 2, num_workers=2)
    assert result.is_frugal, result.line()


def test_the_harness_counts_what_is_redone_and_what_is_met(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("1 a\n2 b\n1 c\n3 a\n2 c\n3 b\n")
    counted = chaos.count(tmp_path, [1])
    assert counted.redone == {1: 2}
    assert counted.num_met == 1
    assert not counted.is_frugal
