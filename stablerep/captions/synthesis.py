"""Captions made of a list of concepts: by templates, or by a language model that is shown a few pairs first (SynCLR, arXiv 2312.17742).

`concepts:<list>` is a source like any other. Every concept gets equally many captions (the first ones take a remainder), and a caption is a
function of (seed, concept, its number), so a longer list, another order of work or a restart changes no caption of a concept. Where a text
came from stays with it: concept, template, model, seed.

SynCLR's three ways to ask: a concept alone; a concept and a background; a concept and how it stands to something. The shown pairs are ours.
"""

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from stablerep.captions.clean import Rules, clean_text
from stablerep.captions.prompt_set import LABEL
from stablerep.errors import CaptionError

CONCEPTS = "concepts:"
MAX_ATTEMPTS = 4  # tries for each caption that is wanted of a concept
SHOWN_PAIRS = 3
MODEL_BATCH = 16

Row = tuple[str, dict[str, Any]]

TEMPLATES = (
    "a photo of a {concept}",
    "a close-up photo of a {concept}",
    "a photo of a {concept} seen from far away",
    "a drawing of a {concept}",
    "a bright photo of one {concept}",
    "a dark photo of a {concept}",
    "a photo of a {concept} in {background}",
    "a {concept} seen in {background} on a clear day",
    "a photo of a {concept} {relation} something else",
)
BACKGROUNDS = ("a forest", "a kitchen", "the snow", "a busy street", "a garden", "the desert", "a studio", "shallow water")
RELATIONS = ("next to", "behind", "on top of", "in front of", "under", "inside", "leaning on", "far above")

_PAIRS: dict[str, tuple[tuple[str, str], ...]] = {
    "concept": (
        ("lantern", "an old brass lantern glowing on a wooden porch at dusk"),
        ("heron", "a grey heron standing motionless at the edge of a pond"),
        ("bicycle", "a red bicycle chained to a lamp post in the rain"),
        ("pancakes", "a tall stack of pancakes with melting butter and blueberries"),
        ("lighthouse", "a white lighthouse on a cliff above a rough sea"),
    ),
    "concept_background": (
        ("fox, the snow", "a fox leaving a line of footprints in fresh snow"),
        ("teapot, a kitchen", "a blue teapot steaming on the counter of a sunny kitchen"),
        ("tractor, a field", "a green tractor crossing a wide field of stubble"),
        ("violin, a studio", "a violin lying on velvet in a dim recording studio"),
        ("turtle, shallow water", "a sea turtle gliding over sand in shallow clear water"),
    ),
    "concept_relation": (
        ("cat, on top of", "a tabby cat asleep on top of a pile of folded towels"),
        ("umbrella, next to", "a yellow umbrella drying next to a pair of boots"),
        ("owl, inside", "a small owl peering out from inside a hollow oak"),
        ("boat, behind", "a fishing boat moored behind a row of reeds"),
        ("lamp, leaning on", "a tall paper lamp leaning on a brick wall"),
    ),
}


class LanguageModel(Protocol):
    """Continues texts."""

    @property
    def name(self) -> str:
        """What it is; kept with every caption."""
        ...

    def complete(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[str]:
        """A continuation of each prompt, a function of prompt and seed."""
        ...


@dataclass(frozen=True)
class Synthesis:
    """How captions are made of concepts.

    Attributes:
        templates: texts with {concept}, and {background} or {relation} where those are wanted.
        backgrounds: what {background} may be.
        relations: what {relation} may be.
        captions_per_concept: how many of each where no total is asked for.
        rules: what a caption must be; those that are not are made anew, so that concepts stay balanced.
        open_model: opens the language model; None writes by templates.
    """

    templates: tuple[str, ...] = TEMPLATES
    backgrounds: tuple[str, ...] = BACKGROUNDS
    relations: tuple[str, ...] = RELATIONS
    captions_per_concept: int = 10
    rules: Rules = field(default_factory=Rules)
    open_model: Callable[[], LanguageModel] | None = None


def concept_rows(name: str, concepts: Sequence[str], how: Synthesis, *, num_captions: int, seed: int) -> Iterator[Row]:
    """Captions of concepts, each with where it came from.

    Args:
        name: of the list, for the provenance.
        concepts: in order; repeated ones count once.
        how: templates or model.
        num_captions: in all; 0 for `captions_per_concept` of each.
        seed: of every choice.

    Yields:
        Text and provenance: source, concept, template, seed, number, label, and the model where one wrote it.

    Raises:
        CaptionError: there are no concepts, or a concept gives too few different captions.
    """
    concepts = list(dict.fromkeys(concept.strip() for concept in concepts if concept.strip()))
    if not concepts:
        raise CaptionError(f"{name}: expected concepts, one a line, found none; write at least one")
    total = num_captions or how.captions_per_concept * len(concepts)
    model = how.open_model() if how.open_model else None
    seen = set[str]()
    for place, concept in enumerate(concepts):
        wanted = total // len(concepts) + (place < total % len(concepts))
        made = 0
        for text, template, number in _attempts(concept, how, model, wanted, seed):
            if made == wanted:
                break
            cleaned = clean_text(text, how.rules.max_words)[0]
            if not cleaned or cleaned in seen or how.rules.refusal(cleaned):
                continue
            seen.add(cleaned)
            made += 1
            origin: dict[str, Any] = {"source": name, "concept": concept, "template": template, "seed": seed, "number": number}
            yield text, origin | {LABEL: concept} | ({"model": model.name} if model else {})
        if made < wanted:
            raise CaptionError(
                f"{name}: expected {wanted} different captions of {concept!r}, found {made}; ask for fewer (captions.num_captions, "
                "captions.captions_per_concept), add templates or backgrounds, or loosen the rules"
            )


def _attempts(concept: str, how: Synthesis, model: LanguageModel | None, wanted: int, seed: int) -> Iterator[tuple[str, str, int]]:
    """Texts for a concept, with their template and number, more than are wanted where possible."""
    if model is None:
        texts = _written(concept, how)
        random.Random(_key(seed, concept, "order")).shuffle(texts)
        yield from ((text, template, number) for number, (text, template) in enumerate(texts))
        return
    for first in range(0, wanted * MAX_ATTEMPTS, MODEL_BATCH):  # lazily: the caller stops asking when it has enough
        numbers = range(first, first + MODEL_BATCH)
        asked = [_prompt(concept, how, _key(seed, concept, number)) for number in numbers]
        texts = model.complete([prompt for prompt, _ in asked], [_key(seed, concept, number, "words") for number in numbers])
        for text, (_, template), number in zip(texts, asked, numbers, strict=True):
            yield text.strip().partition("\n")[0].strip(" \"'"), template, number


def _written(concept: str, how: Synthesis) -> list[tuple[str, str]]:
    """Every text that the templates give, with its template."""
    found: list[tuple[str, str]] = []
    for template in how.templates:
        backgrounds = how.backgrounds if "{background}" in template else ("",)
        relations = how.relations if "{relation}" in template else ("",)
        found += [
            (template.replace("{concept}", concept).replace("{background}", background).replace("{relation}", relation), template)
            for background in backgrounds
            for relation in relations
        ]
    return found


def _prompt(concept: str, how: Synthesis, key: int) -> tuple[str, str]:
    """What a language model is shown: pairs of one kind, then the concept; and the name of the kind."""
    chance = random.Random(key)
    kind = chance.choice(tuple(_PAIRS))
    pairs = chance.sample(_PAIRS[kind], SHOWN_PAIRS)
    others = {"concept": ("",), "concept_background": how.backgrounds, "concept_relation": how.relations}[kind]
    other = chance.choice(others)
    asked = f"{concept}, {other}" if other else concept
    return "".join(f"{words} => {text}\n" for words, text in pairs) + f"{asked} =>", kind


def _key(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:7], "big")
