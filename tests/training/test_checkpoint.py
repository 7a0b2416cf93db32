"""Checkpoints are committed or not there, on a local folder and on an object store alike."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stablerep.errors import CheckpointError, StoreError
from stablerep.store import Store
from stablerep.training.checkpoint import Checkpoints
from stablerep.training.state import CheckpointRecord

FINGERPRINT = "f" * 64


class Alone:
    """The only process."""

    rank = 0
    world_size = 1

    def share(self, value: Any) -> Any:
        return value

    def collect(self, value: Any) -> list[Any]:
        return [value]


@pytest.fixture(params=["file", "memory"])
def runs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "file":
        yield Store(str(tmp_path / "run"))
        return
    store = Store(f"memory://{tmp_path.name}/run")
    yield store
    for key in store.list():
        store.delete(key)


def _save(
    runs: Store, step: int, *, attempt: str = "a", content: str = "", fingerprint: str = FINGERPRINT, kept: int = 2
) -> CheckpointRecord:
    def write(folder: Path) -> None:
        (folder / "state.pt").write_text(content or f"state {step}")
        (folder / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_text("optimizer")

    return Checkpoints(runs, "run-1", fingerprint).save(
        step, write, Alone(), num_steps=9, engine="torch", attempt=attempt, position={"step": step}, metrics={"loss": 1.0}, num_kept=kept
    )


def _found(runs: Store) -> CheckpointRecord | None:
    return Checkpoints(runs, "run-1", FINGERPRINT).find_intact(Alone(), "torch")


def _damage(runs: Store, record: CheckpointRecord) -> None:
    key = f"checkpoints/step-{record.step}/{record.files[0].name}"
    content = bytearray(runs.read(key))
    content[0] ^= 1
    runs.write(key, bytes(content))


def test_the_newest_is_found_and_its_files_come_back(runs: Store) -> None:
    _save(runs, 3)
    _save(runs, 6)
    found = _found(runs)
    assert found is not None
    assert (found.step, found.position, found.metrics) == (6, {"step": 6}, {"loss": 1.0})
    with Checkpoints(runs, "run-1", FINGERPRINT).opened(found, rank=0) as folder:
        assert (folder / "state.pt").read_text() == "state 6"


def test_nothing_there_is_a_fresh_start(runs: Store) -> None:
    assert _found(runs) is None


def test_what_is_not_committed_does_not_count(runs: Store) -> None:
    _save(runs, 3)
    runs.write("checkpoints/step-6/b/state.pt", "half a checkpoint")
    found = _found(runs)
    assert found is not None
    assert found.step == 3


def test_keeps_as_many_as_asked_and_removes_leftovers(runs: Store) -> None:
    runs.write("checkpoints/step-1/dead/state.pt", "left by a kill")
    runs.write("checkpoints/step-9/dead/state.pt", "left by a kill")
    for step in (3, 6, 9):
        _save(runs, step)
    assert sorted({key.split("/")[1] for key in runs.list("checkpoints")}) == ["step-6", "step-9"]
    assert [key for key in runs.list("checkpoints") if "dead" in key] == []


def test_a_second_attempt_replaces_the_same_step(runs: Store) -> None:
    _save(runs, 3, attempt="a")
    _save(runs, 3, attempt="b", content="again")
    found = _found(runs)
    assert found is not None
    assert found.attempt == "b"
    assert [key for key in runs.list("checkpoints") if "/a/" in key] == []


def test_damage_falls_back_with_a_warning(runs: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("stablerep"), "propagate", True)
    _save(runs, 3)
    _damage(runs, _save(runs, 6))
    found = _found(runs)
    assert found is not None
    assert found.step == 3
    assert "checkpoint of step 6 is damaged and passed over" in caplog.text
    _save(runs, 4)  # training on from step 3
    assert Checkpoints(runs, "run-1", FINGERPRINT).committed_steps() == [4, 3]


def test_a_missing_file_and_a_broken_record_are_damage(runs: Store) -> None:
    _save(runs, 3)
    record = _save(runs, 6)
    runs.delete(f"checkpoints/step-6/{record.files[0].name}")
    found = _found(runs)
    assert found is not None
    assert found.step == 3
    runs.write("checkpoints/step-3/COMMITTED.json", "{")
    with pytest.raises(CheckpointError, match=r"found 2 committed and all damaged \(steps 6, 3\); remove that folder"):
        _found(runs)


def test_a_store_out_of_reach_is_not_damage(runs: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _save(runs, 3)
    _save(runs, 6)

    def refuse(self: Store, key: str) -> str:
        raise StoreError(f"cannot read {key}: the network is down")

    monkeypatch.setattr(Store, "sha256", refuse)
    with pytest.raises(StoreError, match="the network is down"):
        _found(runs)


def test_all_damaged_is_an_error(runs: Store) -> None:
    _damage(runs, _save(runs, 3))
    with pytest.raises(CheckpointError, match="expected an intact checkpoint, found 1 committed and all damaged"):
        _found(runs)


def test_another_fingerprint_is_refused_by_both_names(runs: Store) -> None:
    _save(runs, 3, fingerprint="e" * 64)
    with pytest.raises(CheckpointError, match=f"run run-1 with fingerprint {'f' * 16}, found one of run run-1 with fingerprint {'e' * 16}"):
        _found(runs)


def test_another_number_of_processes_is_refused_with_the_remedy(runs: Store) -> None:
    _save(runs, 3)
    two = Alone()
    two.world_size = 2
    with pytest.raises(CheckpointError, match=r"checkpoint of 2 processes, found one of 1; continue with pretrain\.num_processes=1"):
        Checkpoints(runs, "run-1", FINGERPRINT).find_intact(two, "torch")


def test_another_engine_is_refused(runs: Store) -> None:
    _save(runs, 3)
    with pytest.raises(CheckpointError, match="files of engine deepspeed-zero-1, found torch"):
        Checkpoints(runs, "run-1", FINGERPRINT).find_intact(Alone(), "deepspeed-zero-1")


def test_a_full_disk_keeps_the_last_checkpoint(runs: Store) -> None:
    _save(runs, 3)

    def write(folder: Path) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:601] . PytorchStreamWriter failed writing file data/3: file write failed")

    with pytest.raises(StoreError, match="cannot write the checkpoint of step 6"):
        Checkpoints(runs, "run-1", FINGERPRINT).save(
            6, write, Alone(), num_steps=9, engine="torch", attempt="b", position={}, metrics={}, num_kept=1
        )
    found = _found(runs)
    assert found is not None
    assert found.step == 3
