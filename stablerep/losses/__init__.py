"""What a batch is judged by: pure functions of embeddings and labels, without communication and without configuration."""

from stablerep.losses.language import LOG_SCALE_MAX, LOG_SCALE_START, bounded_log_scale, image_text
from stablerep.losses.paper import image_text_plain, multi_positive_plain
from stablerep.losses.positives import count_singletons, multi_positive

__all__ = [
    "LOG_SCALE_MAX",
    "LOG_SCALE_START",
    "bounded_log_scale",
    "count_singletons",
    "image_text",
    "image_text_plain",
    "multi_positive",
    "multi_positive_plain",
]
