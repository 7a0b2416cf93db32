"""A CLIP tokenizer whose byte-pair vocabulary is learnt from a caption corpus.

The layout is CLIP's: 256 bytes, the same bytes at the end of a word, merges by rank, then `<|startoftext|>` and `<|endoftext|>`.
The end token has the highest id and also pads, as in Stable Diffusion 1.x, so pooling at the first end token and pooling at the
largest id agree. Any text can be encoded: unknown words fall back to bytes.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from stablerep.errors import DataError

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

START_TOKEN = "<|startoftext|>"
END_TOKEN = "<|endoftext|>"
MAX_TOKENS = 20
WORD_END = "</w>"
WORD = re.compile(r"[^\W\d_]+|\d|[^\s\w]+|_+")  # as CLIP: letters together, digits one by one, punctuation together


def build_tokenizer(captions: Sequence[str], folder: Path, max_tokens: int = MAX_TOKENS) -> "CLIPTokenizer":
    """Learn merges until every word of the captions is one token, write `vocab.json` and `merges.txt`, and load them.

    Args:
        captions: the corpus.
        folder: where the two files are written; made if absent.
        max_tokens: the context length, start and end tokens included.

    Raises:
        DataError: there are no captions, or one does not fit in `max_tokens` (it would lose words silently).
    """
    from transformers import CLIPTokenizer

    if not captions:
        raise DataError("expected captions to learn a tokenizer from, found none; pass the captions of the train part")
    merges = _learn_merges(captions)
    alphabet = list(_byte_symbols().values())
    tokens = [*alphabet, *(symbol + WORD_END for symbol in alphabet), *("".join(pair) for pair in merges), START_TOKEN, END_TOKEN]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = cast("Any", CLIPTokenizer).from_pretrained(folder, model_max_length=max_tokens)
    lengths = [len(tokens) for tokens in tokenizer(list(captions))["input_ids"]]
    num_tokens = max(lengths)
    if num_tokens > max_tokens:
        longest = captions[lengths.index(num_tokens)]
        raise DataError(
            f"expected captions of at most {max_tokens} tokens, found {num_tokens} in {longest!r}; shorten it or raise max_tokens"
        )
    return tokenizer


def _learn_merges(captions: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair merges in rank order: the most frequent neighbours first, ties in alphabetical order, until words are whole.

    Written out because the trainer of `tokenizers` breaks ties by the order of a hash table: two runs may number tokens differently.
    """
    symbols = _byte_symbols()
    counts = Counter(word for caption in captions for word in WORD.findall(caption.lower()))
    split: dict[str, list[str]] = {}
    for word in counts:
        letters = [symbols[byte] for byte in word.encode("utf-8")]
        split[word] = [*letters[:-1], letters[-1] + WORD_END]
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in split.items():
            for pair in pairwise(parts):
                pairs[pair] += counts[word]
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word, parts in split.items():
            split[word] = _merged(parts, best)


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """`parts` with every occurrence of the pair joined, from the left."""
    joined: list[str] = []
    for part in parts:
        # A part that was just joined is longer than pair[0], so it is not taken for the left half again.
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def _byte_symbols() -> dict[int, str]:
    """The printable stand-in of every byte that GPT-2 and CLIP use."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + rank) for rank, byte in enumerate(others)}
