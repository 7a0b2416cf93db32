"""Which images are asked for next: from the head or the tail, failed ones first, without what others have made."""

from stablerep.groups.open_groups import LEFT_BATCHES, REFRESH_SECONDS, NoJournal, OpenGroups, Wanted
from stablerep.groups.sampler import ImageRequest


class Made(NoJournal):
    """Positions that are made; tells how often it was asked."""

    def __init__(self, *made: int) -> None:
        self.made, self.num_asked = set(made), 0

    def positions(self) -> set[int]:
        self.num_asked += 1
        return set(self.made)


def _requests(position: int) -> list[Wanted]:
    return [(position, slot, ImageRequest(f"c{position}", "text", slot)) for slot in range(2)]


def _positions(wanted: list[Wanted]) -> list[int]:
    return [position for position, _, _ in wanted]


def test_the_holder_works_from_the_head_and_leaves_out_what_is_made() -> None:
    groups = OpenGroups(5, _requests, Made(1, 3))
    assert _positions(groups.batch(4)) == [0, 0, 2, 2]
    assert _positions(groups.batch(4)) == [4, 4]
    assert groups.batch(4) == []
    assert groups.found == {1, 3}
    assert not groups.is_left


def test_a_helper_works_from_the_tail_and_leaves_the_last_groups() -> None:
    groups = OpenGroups(5, _requests, Made(), is_helper=True, num_left=2)
    assert _positions(groups.batch(4)) == [4, 4, 3, 3]
    assert _positions(groups.batch(4)) == [2, 2]
    assert groups.batch(4) == []
    assert groups.is_left


def test_a_holder_leaves_nothing() -> None:
    groups = OpenGroups(3, _requests, Made(), num_left=2)
    assert _positions(groups.batch(6)) == [0, 0, 1, 1, 2, 2]
    assert not groups.is_left


def test_images_that_failed_come_first() -> None:
    groups = OpenGroups(3, _requests, Made())
    first = groups.batch(3)
    assert _positions(first) == [0, 0, 1]
    groups.again([first[1], first[0]])
    assert [(position, slot) for position, slot, _ in groups.batch(3)] == [(0, 1), (0, 0), (1, 1)]


def test_who_meets_another_goes_on_from_the_other_end() -> None:
    groups = OpenGroups(6, _requests, Made())
    assert _positions(groups.batch(2)) == [0, 0]
    groups.turn()
    assert _positions(groups.batch(2)) == [5, 5]
    groups.turn()
    assert _positions(groups.batch(2)) == [1, 1]


def test_what_was_found_damaged_is_made() -> None:
    groups = OpenGroups(2, _requests, Made(0, 1))
    assert groups.batch(4) == []
    groups.reopen([1])
    assert _positions(groups.batch(4)) == [1, 1]


def test_the_journal_is_asked_once_a_second_but_before_each_of_the_last_groups() -> None:
    now, journal = [0.0], Made()
    groups = OpenGroups(20, _requests, journal, clock=lambda: now[0])
    num_far = 20 - LEFT_BATCHES * 2
    for _ in range(num_far):
        groups.batch(2)
    assert journal.num_asked == 1
    journal.made = {17}
    now[0] += REFRESH_SECONDS
    assert _positions(groups.batch(2)) == [num_far] * 2
    asked = journal.num_asked
    assert asked == 2
    journal.made = {17, 18}
    assert _positions(groups.batch(2)) == [19, 19], "no second has passed"
    assert groups.found == {17, 18}
