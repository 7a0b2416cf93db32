"""The rules as Prometheus itself reads them: what stands in the PrometheusRule resources beside this file, as one file of groups."""

from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent


def groups(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """Rule groups of every PrometheusRule in a folder."""
    documents = [document for path in sorted(folder.glob("*.yaml")) for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))]
    return [group for document in documents if document["kind"] == "PrometheusRule" for group in document["spec"]["groups"]]


def rules() -> list[dict[str, Any]]:
    """Every rule, recording rules and alerts."""
    return [rule for group in groups() for rule in group["rules"]]


def write_rules(target: Path) -> Path:
    """Write the rules for a Prometheus without an operator, or for promtool."""
    target.write_text(yaml.safe_dump({"groups": groups()}, sort_keys=False), encoding="utf-8")
    return target
