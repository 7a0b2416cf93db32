"""Where the models are that ship inside this package: text-to-image, and prompt agreement. Imports nothing heavy."""

from importlib import resources
from pathlib import Path

from stablerep.errors import DataError

_AGREEMENT = "agreement_"


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


def agreement_path(name: str = "mnist") -> Path:
    """Folder of a shipped two-tower model of images and captions, readable by `models.load_encoder`.

    Raises:
        DataError: no model of that name is shipped.
    """
    root = Path(str(resources.files("stablerep"))) / "groups" / "embedded"
    if name not in (known := agreement_names()):
        raise DataError(f"expected an embedded agreement model, one of {', '.join(known)}, found {name!r} in {root}; choose one of them")
    return root / f"{_AGREEMENT}{name}"


def agreement_names() -> list[str]:
    """For which data an agreement model ships."""
    root = Path(str(resources.files("stablerep"))) / "groups" / "embedded"
    return sorted(entry.name.removeprefix(_AGREEMENT) for entry in root.glob(f"{_AGREEMENT}*") if entry.is_dir())
