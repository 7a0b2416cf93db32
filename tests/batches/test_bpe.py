from collections import Counter
from itertools import pairwise

from stablerep.batches.bpe import learn_merges, merge_pair

WORDS = {"low": 5, "lower": 2, "newest": 6, "widest": 3, "banana": 4, "aaaa": 3, "lowest": 1, "new": 2}


def plain_merges(word_counts: dict[str, int], num_merges: int) -> list[tuple[str, str]]:
    """The textbook algorithm: count everything anew for every merge."""
    words = {word: [*word[:-1], word[-1] + "</w>"] for word in word_counts}
    merges: list[tuple[str, str]] = []
    for _ in range(num_merges):
        counts: Counter[tuple[str, str]] = Counter()
        for word, symbols in words.items():
            for left, right in pairwise(symbols):
                counts[left, right] += word_counts[word]
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for word, symbols in words.items():
            place = 0
            while place < len(symbols) - 1:
                if (symbols[place], symbols[place + 1]) == best:
                    symbols[place : place + 2] = ["".join(best)]
                place += 1
            words[word] = symbols
    return merges


def test_merges_equal_the_textbook_algorithm() -> None:
    merges = learn_merges(WORDS, "abcdefghijklmnopqrstuvwxyz", 1000)
    assert merges == plain_merges(WORDS, 1000)
    assert merges[0] == ("e", "s")  # newest 6, widest 3, lowest 1; (s, t</w>) is as frequent and comes later in the alphabet
    assert learn_merges(WORDS, "abcdefghijklmnopqrstuvwxyz", 5) == merges[:5]


def test_the_order_of_words_does_not_matter() -> None:
    backwards = dict(reversed(WORDS.items()))
    assert learn_merges(backwards, "abcdefghijklmnopqrstuvwxyz", 50) == learn_merges(WORDS, "zyxwvutsrqponmlkjihgfedcba", 50)


def test_words_with_unknown_characters_teach_nothing() -> None:
    assert learn_merges({"ab": 1, "xy": 9}, "ab", 10) == [("a", "b</w>")]


def test_all_words_become_single_symbols_in_the_end() -> None:
    merges = learn_merges(WORDS, "abcdefghijklmnopqrstuvwxyz", 1000)
    for word in WORDS:
        symbols = [*word[:-1], word[-1] + "</w>"]
        for pair in merges:
            symbols = merge_pair(symbols, pair)
        assert symbols == [word + "</w>"]


def test_merge_pair_goes_from_left_to_right() -> None:
    assert merge_pair(["a", "a", "a"], ("a", "a")) == ["aa", "a"]
    assert merge_pair(["a", "a", "a", "a"], ("a", "a")) == ["aa", "aa"]
    assert merge_pair(["b", "a"], ("a", "b")) == ["b", "a"]
