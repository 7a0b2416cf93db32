"""Label draws are balanced, reproducible and honest about scarce classes; a suite names settings and data, nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from stablerep.errors import DataError
from stablerep.probes.protocol import ALL_LABELS, ProbeProtocol, label_draws

PROTOCOL = ProbeProtocol(("linear", "linear_bn", "knn"), (5, 20, ALL_LABELS), 5, 90, 1024, (0.01, 0.1), 20, 0.07, 1000, 0)
LABELS = np.repeat(np.arange(3), (30, 40, 25)).astype(np.int64)
NAMES = ("cat", "dog", "emu")


def test_draws_are_balanced_without_repeats_and_differ() -> None:
    draws = label_draws(LABELS, NAMES, 7, 4, seed=3)
    assert [np.bincount(LABELS[draw]).tolist() for draw in draws] == [[7, 7, 7]] * 4
    assert all(len(set(draw.tolist())) == 21 for draw in draws)
    assert len({tuple(draw.tolist()) for draw in draws}) == 4


def test_draws_depend_on_the_seed_and_on_nothing_else() -> None:
    first = label_draws(LABELS, NAMES, 7, 2, seed=3)
    assert [d.tolist() for d in label_draws(LABELS, NAMES, 7, 4, seed=3)[:2]] == [d.tolist() for d in first]
    assert [d.tolist() for d in label_draws(LABELS, NAMES, 7, 2, seed=4)] != [d.tolist() for d in first]


def test_all_labels_need_one_draw_and_hold_every_image() -> None:
    draws = label_draws(LABELS, NAMES, ALL_LABELS, 5, seed=0)
    assert len(draws) == 1
    assert draws[0].tolist() == list(range(95))


def test_too_few_images_of_a_class() -> None:
    with pytest.raises(DataError, match=r"at least 26 training images of class 'emu', found 25; take 26 out of probe.labels_per_class"):
        label_draws(LABELS, NAMES, 26, 1, seed=0)


def test_a_suite_is_settings_and_data() -> None:
    suite = PROTOCOL.suite({"folder": "a"})
    assert suite == replace(PROTOCOL).suite({"folder": "a"})
    others = [
        PROTOCOL.suite({"folder": "b"}),
        *(
            replace(PROTOCOL, **{key: value}).suite({"folder": "a"})
            for key, value in {"seed": 1, "num_draws": 4, "base_lrs": (0.1,)}.items()
        ),
    ]
    assert len({suite, *others}) == 5
    assert suite.startswith("suite-")


def test_the_headline_has_all_labels_or_the_most() -> None:
    assert PROTOCOL.headline_labels == ALL_LABELS
    assert replace(PROTOCOL, labels_per_class=(5, 20)).headline_labels == 20
