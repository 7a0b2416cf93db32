"""Cleaning, duplicates, ids, and a choice that depends on the seed and the texts only."""

import hashlib
import random
import sys
import unicodedata
from typing import Any

import pytest

from stablerep.captions.clean import CHARACTERS_PER_WORD, caption_id, clean_captions, clean_text
from stablerep.errors import CaptionError


def _rows(texts: list[str]) -> list[tuple[str, dict[str, Any]]]:
    return [(text, {"line": line}) for line, text in enumerate(texts, 1)]


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  a\t dog \r\n runs ", "a dog runs"),
        ("non\u00a0breaking\u2003and\u2028line\u3000blanks", "non breaking and line blanks"),
        ("be\x00ll\x07 and \x1b[31mcolour", "bell and [31mcolour"),
        ("\ufeffzero\u200bwidth soft\xadhyphen", "zerowidth softhyphen"),
        ("evil \u202etxet\u202c direction", "evil txet direction"),
        ("cafe\u0301", "caf\u00e9"),
        ("family 👩\u200d👧 and \u0645\u06cc\u200c\u062e", "family 👩\u200d👧 and \u0645\u06cc\u200c\u062e"),
        ("lone \ud800 surrogate", "lone surrogate"),
        ("\x00\u200b \t", ""),
    ],
)
def test_what_cleaning_does(raw: str, clean: str) -> None:
    assert clean_text(raw, 60) == (clean, False)


def test_cleaning_is_idempotent_and_always_storable() -> None:
    chance = random.Random(0)
    for _ in range(3000):
        raw = "".join(
            chr(chance.choice((chance.randrange(0x100), chance.randrange(0x3000), chance.randrange(sys.maxunicode)))) for _ in range(40)
        )
        text, _ = clean_text(raw, 5)
        assert clean_text(text, 5) == (text, False)
        assert unicodedata.is_normalized("NFC", text)
        assert text == " ".join(text.split())
        assert text.encode("utf-8").decode("utf-8") == text


def test_long_captions_are_cut_at_words_and_at_characters() -> None:
    assert clean_text("one two three four", 3) == ("one two three", True)
    assert clean_text("one two three", 3) == ("one two three", False)
    assert clean_text("猫" * 100, 3) == ("猫" * 3 * CHARACTERS_PER_WORD, True)


def test_ids_are_digests_of_the_cleaned_text() -> None:
    captions, _ = clean_captions(_rows(["  a  dog"]), max_words=60, num_captions=0, seed=0)
    assert captions[0].text == "a dog"
    assert captions[0].caption_id == hashlib.sha256(b"a dog").hexdigest()[:16] == caption_id("a dog")


def test_every_row_is_counted_once_and_the_first_of_equal_texts_stays() -> None:
    texts = ["a dog", "", "a  dog", "one two three four", "one two three five", " \t", "a cat"]
    captions, counts = clean_captions(_rows(texts), max_words=3, num_captions=0, seed=0)
    assert [(caption.text, caption.metadata["line"]) for caption in captions] == [("a dog", 1), ("one two three", 4), ("a cat", 7)]
    assert counts == {"read": 7, "kept": 3, "empty": 2, "duplicate": 2, "left_out": 0, "truncated": 2}


@pytest.mark.parametrize("num_captions", [1, 7, 99, 100])
def test_a_subset_depends_on_seed_and_texts_only(num_captions: int) -> None:
    texts = [f"caption {i}" for i in range(100)]
    shuffled = random.Random(1).sample(texts * 2, 200)

    def choose(texts: list[str], seed: int, num: int = num_captions) -> list[str]:
        captions, counts = clean_captions(_rows(texts), max_words=60, num_captions=num, seed=seed)
        assert counts["kept"] == len(captions) == num
        assert counts["read"] == counts["kept"] + counts["duplicate"] + counts["left_out"]
        return [caption.text for caption in captions]

    chosen = choose(texts, 0)
    assert chosen == sorted(chosen, key=texts.index)
    assert choose(texts, 0) == chosen
    assert set(choose(shuffled, 0)) == set(chosen)
    assert set(choose(texts, 0, 100)) >= set(chosen)
    if num_captions < 99:
        assert set(choose(texts, 1)) != set(chosen)


def test_a_subset_is_spread_over_the_source() -> None:
    captions, _ = clean_captions(_rows([f"caption {i}" for i in range(10_000)]), max_words=60, num_captions=1000, seed=0)
    first_half = sum(caption.metadata["line"] <= 5000 for caption in captions)
    assert 420 < first_half < 580  # binomial(1000, 0.5): five standard deviations


def test_no_captions_and_too_few_captions_are_refused() -> None:
    with pytest.raises(
        CaptionError, match=r"expected at least one caption, found none in 2 rows: 2 empty, 0 duplicates; check captions.source"
    ):
        clean_captions(_rows(["", "\t"]), max_words=60, num_captions=0, seed=0)
    with pytest.raises(
        CaptionError,
        match=r"expected 3 captions, found 2 usable ones in 4 rows: 1 empty, 1 duplicates; set captions.num_captions to at most 2",
    ):
        clean_captions(_rows(["a", "b", "a", ""]), max_words=60, num_captions=3, seed=0)
