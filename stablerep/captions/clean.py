"""Raw texts become captions: cleaned, of bounded length, each once, under an id made of the text alone.

Cleaning removes control, invisible and direction characters, composes accents (Unicode NFC) and makes any white space one blank. What is
dropped or cut is counted. A subset is chosen by a keyed hash of the id, so it depends on the seed and the texts only; captions stay in
the order of the source. Memory: the captions that are kept, and 64 bits of every distinct id seen.
"""

import hashlib
import heapq
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from stablerep.errors import CaptionError
from stablerep.records import Caption

ID_DIGITS = 16
CHARACTERS_PER_WORD = 24  # bounds texts without blanks (Chinese, URLs, noise) as well

# Controls that are no white space, soft hyphen, zero-width space, word joiner, byte order mark, direction marks, surrogates,
# non-characters. The joiners U+200C and U+200D stay: Indic and Persian writing and emoji need them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)


@dataclass(frozen=True)
class Rules:
    """What a cleaned caption must be.

    Attributes:
        max_words: longer ones are cut.
        min_words: shorter ones are left out.
        blocklist: captions with one of these words or phrases are left out; letter case does not count, parts of words do not match.
    """

    max_words: int = 60
    min_words: int = 1
    blocklist: tuple[str, ...] = ()

    def refusal(self, text: str) -> Literal["", "short", "blocked"]:
        """Why a cleaned text is left out; empty where it is not."""
        if len(text.split()) < self.min_words:
            return "short"
        return "blocked" if self.blocklist and _phrases(self.blocklist).search(text) else ""


@cache
def _phrases(blocklist: tuple[str, ...]) -> re.Pattern[str]:
    listed = sorted({" ".join(phrase.split()) for phrase in blocklist if phrase.strip()}, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, listed)) or '(?!)'})(?!\w)", re.IGNORECASE)


def clean_captions(
    rows: Iterable[tuple[str, dict[str, Any]]],
    *,
    max_words: int,
    num_captions: int,
    seed: int,
    min_words: int = 1,
    blocklist: tuple[str, ...] = (),
) -> tuple[list[Caption], dict[str, int]]:
    """Captions in the order of the source, and what became of all rows.

    Args:
        rows: texts with provenance, as `read_captions` gives them; read once, as a stream.
        max_words: longer texts are cut after this many words (and after 24 times as many characters).
        num_captions: how many to keep, 0 for all.
        seed: of the choice.
        min_words: as in `Rules`.
        blocklist: as in `Rules`.

    Returns:
        The captions, and counts: read = kept + empty + duplicate + left_out (+ short + blocked, where there are such rules); truncated
        counts all cut texts, kept or not.

    Raises:
        CaptionError: no caption is left, or fewer than `num_captions`.
    """
    rules = Rules(max_words, min_words, blocklist)
    counts = Counter[str](read=0, kept=0, empty=0, duplicate=0, left_out=0, truncated=0)
    counts.update({"short": 0} if min_words > 1 else {}, **({"blocked": 0} if blocklist else {}))
    seen = set[int]()
    chosen: list[tuple[int, int, Caption]] = []  # a heap: the key to drop next (negated) first
    for position, (raw, provenance) in enumerate(rows):
        counts["read"] += 1
        text, is_truncated = clean_text(raw, max_words)
        counts["truncated"] += is_truncated
        caption = Caption(caption_id(text), text, provenance)
        number = int(caption.caption_id, 16)
        if not text or number in seen:
            counts["duplicate" if text else "empty"] += 1
            continue
        if refused := rules.refusal(text):
            counts[refused] += 1
            continue
        seen.add(number)
        entry = (-_key(caption, seed) if num_captions else 0, -position, caption)
        if num_captions and len(chosen) == num_captions:
            heapq.heappushpop(chosen, entry)
            counts["left_out"] += 1
        elif num_captions:
            heapq.heappush(chosen, entry)
        else:
            chosen.append(entry)
    counts["kept"] = len(chosen)
    _check_number(num_captions, counts)
    chosen.sort(key=lambda entry: -entry[1])
    return [caption for _, _, caption in chosen], dict(counts)


def clean_text(raw: str, max_words: int) -> tuple[str, bool]:
    """The cleaned text, and whether it was cut; cleaning a clean text changes nothing."""
    words = unicodedata.normalize("NFC", _INVISIBLE.sub("", raw)).split()
    text = " ".join(words[:max_words])
    max_characters = max_words * CHARACTERS_PER_WORD
    return text[:max_characters].rstrip(), len(words) > max_words or len(text) > max_characters


def caption_id(text: str) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a cleaned text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:ID_DIGITS]


def _key(caption: Caption, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{caption.caption_id}".encode()).digest()[:8], "big")


def _check_number(num_captions: int, counts: Counter[str]) -> None:
    facts = f"{counts['read']} rows: {counts['empty']} empty, {counts['duplicate']} duplicates"
    if counts["kept"] == 0:
        raise CaptionError(f"expected at least one caption, found none in {facts}; check captions.source and captions.column")
    if counts["kept"] < num_captions:
        raise CaptionError(
            f"expected {num_captions} captions, found {counts['kept']} usable ones in {facts}; "
            f"set captions.num_captions to at most {counts['kept']}, or to 0 for all"
        )
