"""Zero-shot classification: the class whose name, put into templates, lies nearest in the space shared with text (CLIP, section 3.1).

No labelled image is used: only names of classes. The text embedding of a class is the mean over the templates, as at the endpoint.

Dimension key: Q test images, D the space shared with text, K classes.
"""

# pyright: reportUnknownMemberType=false
from collections.abc import Sequence

from stablerep.batches.tokenize import CaptionTokenizer
from stablerep.models import Encoder
from stablerep.probes.features import extract
from stablerep.probes.lazy import Images
from stablerep.probes.protocol import Int64Array


def probe_zero_shot(
    encoder: Encoder, tokenizer: CaptionTokenizer, images: Images, class_names: Sequence[str], templates: Sequence[str], batch_size: int
) -> Int64Array:
    """Name the class of every image.

    Args:
        encoder: with a text tower.
        tokenizer: that of the text tower.
        images: prepared as the encoder's preprocessor says.
        class_names: K names.
        templates: texts with `{}` where the name goes.
        batch_size: images a forward pass.

    Returns:
        Classes int64 [Q].

    Raises:
        ConfigError: the encoder has no text tower.
        DivergenceError: an embedding is not finite.
    """
    tokens_NT = tokenizer.encode([template.replace("{}", name) for name in class_names for template in templates])
    label_DK = encoder.embed_labels(tokens_NT, len(class_names))
    image_QD = extract(encoder.embed_image_for_text, images, mean=encoder.mean, std=encoder.std, batch_size=batch_size)
    return (image_QD @ label_DK).argmax(1).numpy()
