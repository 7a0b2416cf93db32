"""Caption text to token ids, with CLIP's byte-pair vocabulary or one learnt from the captions.

Both vocabularies lower-case, cut words as CLIP does and mark word ends with `</w>`. The end token has the highest id and survives
truncation, so the pooled position is well defined (docs/paper.md). Padding is id 0 and comes after the end token, where causal attention
cannot see it. Markup in a caption cannot spell the start or the end token. The JSON is the native format of the `tokenizers` library:
`Tokenizer.from_file("tokenizer.json")` gives the same ids.

Dimension key: N captions, T tokens (the context length).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import gzip
import html
import importlib.util
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from stablerep.batches.bpe import WORD_END, Pair, learn_merges
from stablerep.errors import ConfigError, DataError

PAD_TOKEN, UNKNOWN_TOKEN, START_TOKEN, END_TOKEN = "<pad>", "<unk>", "<start_of_text>", "<end_of_text>"
CLIP_VOCABULARY_SIZE = 49_408
PAD_ID = 0
_CLIP_FILE = "bpe_simple_vocab_16e6.txt.gz"
_ALWAYS_KNOWN = "abcdefghijklmnopqrstuvwxyz0123456789"
_WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_QUOTES = ((r"[\u2018-\u201b]", "'"), (r"[\u201c-\u201f]", '"'))  # typographic quotes, as ftfy undoes them for CLIP


class CaptionTokenizer:
    """Texts to int64 [N, T]; made by `build_tokenizer` or `from_json`.

    Attributes:
        context_length: T.
        vocabulary_size: number of ids; the end token is the last one.
        eot_id: id of the end token.
        num_truncated: texts cut by `encode` so far, in this process.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        truncation, eot_id = cast("dict[str, int] | None", tokenizer.truncation), tokenizer.token_to_id(END_TOKEN)
        if truncation is None or tokenizer.padding is None or eot_id is None:
            raise DataError(f"expected a tokenizer with truncation, padding and {END_TOKEN!r}; write it with CaptionTokenizer.to_json")
        self._tokenizer = tokenizer
        self.context_length = int(truncation["max_length"])
        self.vocabulary_size = int(tokenizer.get_vocab_size(with_added_tokens=False))
        self.eot_id = int(eot_id)
        self.num_truncated = 0

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Start token, the text's tokens (cut to fit), end token, padding: int64 [N, T]."""
        encodings = [self._tokenizer.encode(html.unescape(html.unescape(text))) for text in texts]
        self.num_truncated += sum(bool(encoding.overflowing) for encoding in encodings)
        return torch.tensor([encoding.ids for encoding in encodings], dtype=torch.int64).reshape(len(encodings), self.context_length)

    def to_json(self) -> str:
        """The whole tokenizer as one JSON text."""
        return self._tokenizer.to_str()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read `to_json` back.

        Raises:
            DataError: the text is not such a tokenizer.
        """
        try:
            return cls(Tokenizer.from_str(text))
        except DataError:
            raise
        except Exception as error:  # the library raises plain Exception
            raise DataError(f"expected the JSON of a tokenizer, found {text[:60]!r}: {error}") from error


def build_tokenizer(
    captions: Sequence[str], *, vocabulary: Literal["captions", "clip"], vocabulary_size: int, context_length: int
) -> CaptionTokenizer:
    """A tokenizer for captions.

    Args:
        captions: learnt from with vocabulary "captions", in any order; not looked at with "clip".
        vocabulary: "captions" learns byte-pair merges; "clip" reads CLIP's 49,408 entries from the installed open_clip package.
        vocabulary_size: the most ids there may be; a small corpus needs fewer.
        context_length: T, start and end token included.

    Raises:
        ConfigError: a size is impossible, or the open_clip package is not installed.
        DataError: there are no captions to learn from.
    """
    if context_length < 3:
        raise ConfigError(f"pretrain.text.context_length: expected 3 or more (start, a word, end), found {context_length}")
    if vocabulary == "clip":
        if vocabulary_size != CLIP_VOCABULARY_SIZE:
            raise ConfigError(
                f"pretrain.text.vocabulary_size: expected {CLIP_VOCABULARY_SIZE} with vocabulary 'clip', found {vocabulary_size}; "
                "set it, or set pretrain.text.vocabulary=captions to learn one"
            )
        return CaptionTokenizer(_finished(*_clip_vocabulary(), is_byte_level=True, context_length=context_length))
    if not captions:
        raise DataError("expected captions to learn a vocabulary from, found none")
    return CaptionTokenizer(_finished(*_learnt_vocabulary(captions, vocabulary_size), is_byte_level=False, context_length=context_length))


def _finished(ids: dict[str, int], merges: list[Pair], *, is_byte_level: bool, context_length: int) -> Tokenizer:
    unknown = None if is_byte_level else UNKNOWN_TOKEN
    model = models.BPE(vocab=ids, merges=merges, end_of_word_suffix=WORD_END, unk_token=unknown)
    tokenizer: Any = Tokenizer(model)
    tokenizer.normalizer = _normalizer()
    words = pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, to_bytes]) if is_byte_level else words
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START_TOKEN} $A {END_TOKEN}", special_tokens=[(token, ids[token]) for token in (START_TOKEN, END_TOKEN)]
    )
    tokenizer.enable_truncation(context_length)
    tokenizer.enable_padding(length=context_length, pad_id=PAD_ID, pad_token=next(token for token, index in ids.items() if index == PAD_ID))
    return tokenizer


def _normalizer() -> Any:
    quotes = [normalizers.Replace(Regex(pattern), quote) for pattern, quote in _QUOTES]
    return normalizers.Sequence([normalizers.NFC(), *quotes, normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])


def _learnt_vocabulary(captions: Sequence[str], vocabulary_size: int) -> tuple[dict[str, int], list[Pair]]:
    """Padding, unknown, the characters inside and at the end of words, merges, start, end."""
    normalizer, splitter = _normalizer(), pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)
    counts: Counter[str] = Counter()
    for caption in captions:
        text = normalizer.normalize_str(html.unescape(html.unescape(caption)))
        counts.update(word for word, _ in splitter.pre_tokenize_str(text))
    characters: Counter[str] = Counter()
    for word, count in counts.items():
        for character in word:
            characters[character] += count
    others = sorted((c for c in characters if c not in _ALWAYS_KNOWN), key=lambda c: (-characters[c], c))
    room = vocabulary_size // 4 - len(_ALWAYS_KNOWN)  # at most half of the ids are characters; rarer ones become unknown
    if room < 0:
        raise ConfigError(f"pretrain.text.vocabulary_size: expected {4 * len(_ALWAYS_KNOWN)} or more, found {vocabulary_size}")
    alphabet = sorted([*_ALWAYS_KNOWN, *others[:room]])
    tokens = [PAD_TOKEN, UNKNOWN_TOKEN, *alphabet, *(character + WORD_END for character in alphabet)]
    merges = learn_merges(counts, alphabet, vocabulary_size - len(tokens) - 2)
    return _numbered([*tokens, *("".join(pair) for pair in merges), START_TOKEN, END_TOKEN]), merges


def _clip_vocabulary() -> tuple[dict[str, int], list[Pair]]:
    """CLIP's ids and merges from the data file of open_clip, without importing that package (it would load torchvision and timm)."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "pretrain.text.vocabulary: 'clip' reads its merges from the package open-clip-torch, which is not installed; "
            "install stablerep[train], or set pretrain.text.vocabulary=captions"
        )
    lines = gzip.decompress((Path(spec.submodule_search_locations[0]) / _CLIP_FILE).read_bytes()).decode("utf-8").split("\n")
    symbols = _byte_symbols()
    num_merges = CLIP_VOCABULARY_SIZE - 2 * len(symbols) - 2
    merges = [(left, right) for left, right in (line.split() for line in lines[1 : 1 + num_merges])]
    tokens = [*symbols, *(symbol + WORD_END for symbol in symbols), *("".join(pair) for pair in merges), START_TOKEN, END_TOKEN]
    return _numbered(tokens), merges


def _numbered(tokens: list[str]) -> dict[str, int]:
    """Ids without gaps; two merges may spell one symbol, which then keeps its first id."""
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def _byte_symbols() -> list[str]:
    """The printable stand-ins of the 256 bytes in CLIP's order: printable Latin-1 first, then the others from U+0100 on."""
    printable = [chr(code) for start, end in ((0x21, 0x7E), (0xA1, 0xAC), (0xAE, 0xFF)) for code in range(start, end + 1)]
    return printable + [chr(0x100 + rank) for rank in range(256 - len(printable))]
