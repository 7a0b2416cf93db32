"""Byte-pair merges learnt from captions, the same on every machine and in every process.

The trainer of the `tokenizers` library numbers word-final symbols in hash order, so its result can differ between processes; here
ties are broken by the text of the pair. Words end in `</w>` as in CLIP.
Source: Sennrich, Haddow, Birch: Neural machine translation of rare words with subword units, 2016.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise

WORD_END = "</w>"
Pair = tuple[str, str]


def learn_merges(word_counts: Mapping[str, int], alphabet: Iterable[str], num_merges: int) -> list[Pair]:
    """The first `num_merges` merges in rank order; fewer when every word has become one symbol.

    Args:
        word_counts: how often each word occurs in the captions.
        alphabet: characters that have symbols; words with others are left out, as the tokenizer cannot build them.
        num_merges: how many merges there may be.
    """
    known = set(alphabet)
    entries = sorted((word, count) for word, count in word_counts.items() if word and known.issuperset(word))
    words = [[*word[:-1], word[-1] + WORD_END] for word, _ in entries]
    counts = [count for _, count in entries]
    pair_counts: Counter[Pair] = Counter()
    places: defaultdict[Pair, set[int]] = defaultdict(set)
    for number, symbols in enumerate(words):
        _count_pairs(symbols, counts[number], number, pair_counts, places)
    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(heap)
    merges: list[Pair] = []
    while heap and len(merges) < num_merges:
        negative, pair = heapq.heappop(heap)
        if pair_counts[pair] != -negative:  # an outdated entry; the current one was pushed when the count changed
            continue
        merges.append(pair)
        changed: set[Pair] = set()
        for number in places.pop(pair):
            changed |= _count_pairs(words[number], -counts[number], number, pair_counts, places)
            words[number] = merge_pair(words[number], pair)
            changed |= _count_pairs(words[number], counts[number], number, pair_counts, places)
        for other in changed:
            if pair_counts[other] > 0:
                heapq.heappush(heap, (-pair_counts[other], other))
    return merges


def merge_pair(symbols: list[str], pair: Pair) -> list[str]:
    """Symbols of a word with every occurrence of `pair`, from left to right, made one symbol."""
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged


def _count_pairs(symbols: list[str], count: int, number: int, totals: Counter[Pair], places: defaultdict[Pair, set[int]]) -> set[Pair]:
    """Add `count` for each pair of a word and note where it is; returns the pairs."""
    pairs = list(pairwise(symbols))
    for pair in pairs:
        totals[pair] += count
        if count > 0:
            places[pair].add(number)
    return set(pairs)
