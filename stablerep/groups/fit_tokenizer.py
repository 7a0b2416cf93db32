"""A CLIP tokenizer whose byte-pair vocabulary is learnt from a caption corpus.

The layout is CLIP's: 256 bytes, the same bytes at the end of a word, merges by rank, then `<|startoftext|>` and `<|endoftext|>`.
The end token has the highest id and also pads, as in Stable Diffusion 1.x, so pooling at the first end token and pooling at the
largest id agree. Any text can be encoded: unknown words fall back to bytes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stablerep.errors import DataError

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

START_TOKEN = "<|startoftext|>"
END_TOKEN = "<|endoftext|>"
MAX_TOKENS = 20
WORD_END = "</w>"


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
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=max_tokens)
    longest = max(captions, key=lambda caption: len(tokenizer(caption)["input_ids"]))
    num_tokens = len(tokenizer(longest)["input_ids"])
    if num_tokens > max_tokens:
        raise DataError(
            f"expected captions of at most {max_tokens} tokens, found {num_tokens} in {longest!r}; shorten it or raise max_tokens"
        )
    return tokenizer


def _learn_merges(captions: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair merges of the corpus by the `tokenizers` trainer, in rank order."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers import Regex

    model = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    model.normalizer = normalizers.Lowercase()
    # CLIP's word pattern for plain text: letters together, digits one by one, punctuation together.
    pattern = Regex(r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, behavior="removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=8192, min_frequency=1, end_of_word_suffix=WORD_END, show_progress=False)
    model.train_from_iterator(sorted(captions), trainer)
    return [tuple(pair) for pair in json.loads(model.to_str())["model"]["merges"]]


def _byte_symbols() -> dict[int, str]:
    """The printable stand-in of every byte that GPT-2 and CLIP use."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + rank) for rank, byte in enumerate(others)}
