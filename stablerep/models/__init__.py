"""What is trained and what is kept: the trunk, its heads, the text tower, and the folder an encoder is exported to."""

from stablerep.models.decay import weight_decay_groups
from stablerep.models.folder import Encoder, add_files, load_encoder, save_encoder
from stablerep.models.heads import ProjectionHead
from stablerep.models.patches import PrototypeHead, encode_tokens
from stablerep.models.preprocess import Preprocessor, default_preprocessor, normalisation
from stablerep.models.text import TextTower
from stablerep.models.trunk import build_trunk, compile_trunk
from stablerep.models.two_tower import HeadSpec, ModelSpec, TextSpec, TrunkSpec, TwoTower, TwoTowerOutput, build_two_tower, num_features

__all__ = [
    "Encoder",
    "HeadSpec",
    "ModelSpec",
    "Preprocessor",
    "ProjectionHead",
    "PrototypeHead",
    "TextSpec",
    "TextTower",
    "TrunkSpec",
    "TwoTower",
    "TwoTowerOutput",
    "add_files",
    "build_trunk",
    "build_two_tower",
    "compile_trunk",
    "default_preprocessor",
    "encode_tokens",
    "load_encoder",
    "normalisation",
    "num_features",
    "save_encoder",
    "weight_decay_groups",
]
