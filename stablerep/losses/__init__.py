"""What a batch is judged by: pure functions of embeddings and labels, without communication and without configuration."""

from stablerep.losses.backends import BACKENDS
from stablerep.losses.blocks import image_text_in_blocks, multi_positive_in_blocks
from stablerep.losses.keys import against_keys
from stablerep.losses.language import image_text
from stablerep.losses.paper import image_text_plain, multi_positive_plain
from stablerep.losses.positives import count_singletons, multi_positive
from stablerep.losses.prototypes import balanced, masked_patches
from stablerep.losses.scale import LOG_SCALE_MAX, LOG_SCALE_START, bounded_log_scale

__all__ = [
    "BACKENDS",
    "LOG_SCALE_MAX",
    "LOG_SCALE_START",
    "against_keys",
    "balanced",
    "bounded_log_scale",
    "count_singletons",
    "image_text",
    "image_text_in_blocks",
    "image_text_plain",
    "masked_patches",
    "multi_positive",
    "multi_positive_in_blocks",
    "multi_positive_plain",
]
