"""Where the text-to-image models are that ship inside this package. Imports nothing heavy."""

from importlib import resources
from pathlib import Path

from stablerep.errors import DataError


def embedded_path(name: str = "mnist") -> Path:
    """Folder of a shipped model, readable by `diffusers.StableDiffusionPipeline.from_pretrained`.

    Raises:
        DataError: no model of that name is shipped.
    """
    root = Path(str(resources.files("stablerep"))) / "groups" / "embedded"
    known = sorted(entry.parent.name for entry in root.glob("*/model_index.json"))
    if name not in known:
        raise DataError(f"expected an embedded model, one of {', '.join(known)}, found {name!r} in {root}; choose one of them")
    return root / name
