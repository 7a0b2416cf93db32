"""The sidecar of manifests/components/feast: what is in a store's catalogue is served from a copy."""

import runpy
from pathlib import Path

import pytest
import yaml
from known_models import SUITE, evaluation

from stablerep.catalogue import ParquetCatalogue
from stablerep.store import Store

COMPONENT = Path(__file__).resolve().parents[2] / "manifests" / "components" / "feast"
EARLY, LATE = "2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"


@pytest.mark.slow
def test_the_mirror_serves_what_is_in_the_store(tmp_path: Path) -> None:
    mirror = runpy.run_path(str(COMPONENT / "mirror.py"))["mirror"]
    source, copy = (Store((tmp_path / name).as_uri()) for name in ("source", "copy"))
    facts = ParquetCatalogue(source)
    facts.register_evaluation(evaluation("model-a", 0.9), EARLY)
    facts.promote("model-a", SUITE, EARLY)
    assert set(mirror(source, copy)) == {"evaluations", "champions"}
    assert mirror(source, copy) == []
    facts.register_evaluation(evaluation("model-a", 0.8), LATE)  # a file of the same name, and nearly the same size
    assert mirror(source, copy) == ["evaluations"]
    assert ParquetCatalogue(copy).champion(SUITE) == facts.champion(SUITE)
    pod = yaml.safe_load((COMPONENT / "deployment.yaml").read_text(encoding="utf-8"))["spec"]["template"]["spec"]
    waited_for = pod["initContainers"][0]["startupProbe"]["exec"]["command"][-1]
    assert copy.exists(waited_for.removeprefix("/feast/")), "the server starts when this file is there"
    assert pod["containers"][0]["command"][2] == str(Path(waited_for).parent)
