"""`make compile`: every pipeline as the YAML that Kubeflow takes, committed so that a change of the graph is seen in review."""

import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

COMPILED = PROJECT / "pipelines" / "compiled"


def compile_all(folder: Path = COMPILED) -> list[Path]:
    """Compile into `folder`; returns the files written."""
    from kfp import compiler

    from pipelines.stablerep import stablerep

    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "stablerep.yaml"
    compiler.Compiler().compile(stablerep, str(target))
    return [target]


if __name__ == "__main__":
    for path in compile_all():
        sys.stdout.write(f"{path.relative_to(PROJECT)}  {path.stat().st_size} bytes\n")
