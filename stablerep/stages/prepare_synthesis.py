"""What `captions.*` says of captions made of concepts, and of captions that are not wanted; the model is opened when it is needed."""

from stablerep.captions.clean import Rules
from stablerep.captions.read import read_lines
from stablerep.captions.synthesis import BACKGROUNDS, CONCEPTS, RELATIONS, TEMPLATES, LanguageModel, Synthesis
from stablerep.config.schema import CaptionsConfig
from stablerep.errors import ConfigError


def blocklist(captions: CaptionsConfig) -> tuple[str, ...]:
    """Words and phrases that no caption may hold.

    Raises:
        CaptionError: the list cannot be read.
    """
    return tuple(read_lines(captions.blocklist)) if captions.blocklist else ()


def synthesis(captions: CaptionsConfig) -> Synthesis | None:
    """How captions are made of concepts; None where the source is no list of concepts.

    Raises:
        CaptionError: a list cannot be read.
    """
    if not captions.source.startswith(CONCEPTS):
        return None

    def open_model() -> LanguageModel:
        try:
            from stablerep.captions.language_model import TransformersLanguageModel
        except ImportError as error:
            raise ConfigError(
                f"captions.language_model {captions.language_model}: needs torch and transformers, which are not installed here "
                f"({error.name}); install stablerep[generate], as in the image `generate`"
            ) from error
        return TransformersLanguageModel(captions.language_model, temperature=captions.temperature, max_new_tokens=captions.max_new_tokens)

    return Synthesis(
        templates=captions.templates or TEMPLATES,
        backgrounds=tuple(read_lines(captions.backgrounds)) if captions.backgrounds else BACKGROUNDS,
        relations=tuple(read_lines(captions.relations)) if captions.relations else RELATIONS,
        captions_per_concept=captions.captions_per_concept,
        rules=Rules(captions.max_words, captions.min_words, blocklist(captions)),
        open_model=open_model if captions.language_model else None,
    )
