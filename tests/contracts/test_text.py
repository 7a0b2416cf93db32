"""What must never be committed: paths of a machine, hosts of package registries, unfinished places; and a glossary without holes."""

import re
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
NEVER = {
    "a path of a machine": r"/(work|farm|root)/[a-z]",
    "a package-registry host": r"pypi\.org|pythonhosted\.org|registry\.npmjs|deb\.debian\.org",
    "an unfinished place": r"raise NotImplementedError|\bTODO\b|\bFIXME\b|\bXXX\b",
}


def _tracked() -> list[Path]:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [PROJECT / name for name in names if name and (PROJECT / name).is_file() and name != "tests/contracts/test_text.py"]


@pytest.mark.parametrize("what", NEVER)
def test_never_committed(what: str) -> None:
    found = []
    for path in _tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if re.search(NEVER[what], text):
            found.append(str(path.relative_to(PROJECT)))
    assert found == []


def test_glossary_holds_every_noun_and_verb() -> None:
    from stablerep.stages import STAGES

    glossary = (PROJECT / "docs" / "glossary.md").read_text(encoding="utf-8").lower()
    packages = {path.name for path in (PROJECT / "stablerep").iterdir() if (path / "__init__.py").exists()}
    missing = sorted(word for word in packages | set(STAGES) if f"**{word}" not in glossary and f"`{word}`" not in glossary)
    assert missing == []
