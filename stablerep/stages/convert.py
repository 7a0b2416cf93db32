"""convert: an exported encoder as an ONNX file or as a folder that timm loads.

Not a stage of the pipeline but what `stablerep convert` runs. What is written was compared with the encoder; where it differs, the command
fails.
"""

from pathlib import Path

from stablerep.errors import ConfigError

FORMATS = ("onnx", "timm")


def convert(model: str, format_name: str, to: Path) -> str:
    """Write an encoder in another format.

    Args:
        model: path or store URI of `models/<model_id>`.
        format_name: one of `FORMATS`.
        to: a folder; made where missing.

    Returns:
        A sentence for people.

    Raises:
        ConfigError: no such format, or a package is missing.
        CheckpointError: the encoder is damaged, or what was written answers differently.
        StoreError: the store cannot be read.
    """
    if format_name not in FORMATS:
        raise ConfigError(f"convert: expected --format {' or '.join(FORMATS)}, found {format_name!r}")
    from stablerep.endpoint.folder import local_folder
    from stablerep.models.formats import write_onnx, write_timm

    with local_folder(model) as folder:
        difference = (write_onnx if format_name == "onnx" else write_timm)(folder, to)
    return f"{format_name} in {to}; largest difference between embeddings: {difference:.1e}"
