"""What ends a lane of generate, or nearly: a clear error each time, and a lane that goes on where it was once the cause is gone."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import tiny_diffusion
import torch
from s3_server import S3Server
from small_disk import CAN_MOUNT, tmpfs

from stablerep.captions.packaged import caption_corpus
from stablerep.captions.prompt_set import write_prompt_set
from stablerep.errors import ConfigError, DataError, StoreError
from stablerep.groups.diffusers_sampler import DiffusersSampler
from stablerep.groups.sampler import ImageHW3, ImageRequest
from stablerep.identity import sha256_bytes
from stablerep.records import Caption, LaneReport, PromptSet
from stablerep.stages import generate, generator
from stablerep.store import Store

SETTINGS = (
    "generate.scheduler=ddim generate.num_inference_steps=2 generate.images_per_caption=3 generate.batch_size=3 "
    "generate.stored_size_px=16 pretrain.images_per_caption=2"
)
NUM_CAPTIONS, PER_SHARD = 6, 3
NUM_IMAGES = 3 * NUM_CAPTIONS
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"

Sample = Callable[[DiffusersSampler, Sequence[ImageRequest]], list[ImageHW3 | None]]
true_sample = DiffusersSampler.sample


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_diffusion.write_sd(tmp_path_factory.mktemp("model") / "sd")


@pytest.fixture(scope="module")
def model(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Record of the model in `folder`."""
    store = str(tmp_path_factory.mktemp("store"))
    return generator.run("smoke", f"generator.model={folder} generator.licence=mit", store).to_json()


def _prompt_set(store: Store) -> PromptSet:
    captions = [Caption(sha256_bytes(text.encode())[:16], text) for text, _ in caption_corpus("mnist", NUM_CAPTIONS, 0)]
    return write_prompt_set(store, captions, {}, captions_per_shard=PER_SHARD, num_lanes=1)


def _lane(model: str, store: Store, prompt_set: PromptSet, more: str = "") -> LaneReport:
    return generate.run("smoke", f"{SETTINGS} {more}", store.uri, prompt_set=prompt_set.to_json(), generator=model, lane=0)


def _tars(store: Store) -> dict[str, bytes]:
    return {key.rpartition("/")[2]: store.read(key) for key in store.list("groups") if key.endswith(".tar")}


def _failures(store: Store) -> list[str]:
    lines = [json.loads(line) for line in store.read_text("telemetry/generate-0.jsonl").splitlines()]
    return [line["labels"]["error"] for line in lines if line["metric"] == "stablerep_stage_failures_total"]


@pytest.fixture(scope="module")
def undisturbed(model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The shards of a lane that nothing happens to."""
    store = Store(str(tmp_path_factory.mktemp("undisturbed")))
    assert _lane(model, store, _prompt_set(store)).num_images_made == NUM_IMAGES
    return _tars(store)


def _after(num_batches: int, happen: Callable[[], None]) -> Sample:
    """A sampler to which something happens after so many batches; a call with one request counts operations."""
    num_called = 0

    def sample(self: DiffusersSampler, requests: Sequence[ImageRequest]) -> list[ImageHW3 | None]:
        nonlocal num_called
        num_called += len(requests) > 1
        if num_called == num_batches + 1:
            happen()
        return true_sample(self, requests)

    return sample


@pytest.mark.parametrize("damage", ["gone", "cut short", "others"])
def test_a_model_that_cannot_be_read(model: str, folder: Path, store: Store, undisturbed: dict[str, bytes], damage: str) -> None:
    prompt_set, weights = _prompt_set(store), folder / WEIGHTS
    whole = weights.read_bytes()
    if damage == "gone":
        folder.rename(folder.with_name("elsewhere"))
        message = r"sd: expected a diffusers pipeline folder with model_index.json, found none"
    elif damage == "cut short":
        weights.write_bytes(whole[:-1000])
        message = rf"{WEIGHTS}: expected {len(whole)} bytes as its header says, found {len(whole) - 1000}; the download is damaged"
    else:
        weights.write_bytes(whole[:-4] + b"\0\0\0\0")
        message = r"expected the model with digest .*it changed since stage generator ran"
    try:
        with pytest.raises(DataError, match=message) as caught:
            _lane(model, store, prompt_set)
    finally:
        if damage == "gone":
            folder.with_name("elsewhere").rename(folder)
        weights.write_bytes(whole)
    assert (caught.value.exit_code, caught.value.is_retryable) == (3, False)
    assert _failures(store) == ["DataError"]
    assert not [key for key in store.list("groups") if "/claims/" in key], "its shards are free for others"
    assert _lane(model, store, prompt_set).num_images_made == NUM_IMAGES
    assert _tars(store) == undisturbed


def test_a_store_that_cannot_be_written_ends_the_lane_before_the_model_is_loaded(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("stablerep.groups.diffusers_sampler.load_pipeline", load)
    store = Store(str(tmp_path / "store"))
    prompt_set = _prompt_set(store)
    store.write("groups", "a file where a folder is needed")
    with pytest.raises(StoreError, match=r"cannot write .*/store/groups/groups-[0-9a-f]+/spec.json: .*") as caught:
        _lane(model, store, prompt_set)
    assert caught.value.is_retryable


if CAN_MOUNT:

    def test_a_disk_that_fills_up_costs_the_groups_in_hand(
        model: str, tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with tmpfs(tmp_path / "disk", "2m") as disk:
            store, ballast = Store(str(disk / "store")), disk / "ballast"
            prompt_set = _prompt_set(store)

            def fill() -> None:
                with ballast.open("wb", buffering=0) as file, suppress(OSError):
                    while True:
                        file.write(bytes(4096))

            with monkeypatch.context() as patch:
                patch.setattr(DiffusersSampler, "sample", _after(4, fill))
                with pytest.raises(StoreError, match=r"cannot write .*/disk/store/groups/.*the disk is full: free some space, then run"):
                    _lane(model, store, prompt_set)
            ballast.unlink()
            report = _lane(model, store, prompt_set)
            assert report.num_images_made in (NUM_IMAGES - 4 * 3, NUM_IMAGES - 3 * 3), "the fourth group was being written"
            assert _tars(store) == undisturbed


@pytest.mark.dist
def test_credentials_that_expire_while_a_lane_works(
    model: str, s3_server: S3Server, s3_store_uri: str, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(s3_store_uri)
    prompt_set = _prompt_set(store)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(DiffusersSampler, "sample", _after(4, lambda: s3_server.accept("another secret")))
            with pytest.raises(StoreError, match=r"cannot \w+ s3://.*: permission denied; check credentials") as caught:
                _lane(model, store, prompt_set)
    finally:
        s3_server.accept(s3_server.secret_key)
    assert caught.value.is_retryable
    report = _lane(model, store, prompt_set)
    assert report.num_images_made in (NUM_IMAGES - 4 * 3, NUM_IMAGES - 3 * 3), "the fourth group was being written"
    assert _tars(store) == undisturbed
    assert not [key for key in store.list("groups") if "/claims/" in key or "/parts/" in key]


def _room_for(num_images: int) -> Sample:
    def sample(self: DiffusersSampler, requests: Sequence[ImageRequest]) -> list[ImageHW3 | None]:
        if len(requests) > num_images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return true_sample(self, requests)

    return sample


def test_a_batch_that_does_not_fit_is_halved_counted_and_the_lane_goes_on(
    model: str, store: Store, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(DiffusersSampler, "sample", _room_for(4))
    report = _lane(model, store, _prompt_set(store), "generate.batch_size=12")
    assert report.num_images == NUM_IMAGES
    assert _tars(store) == undisturbed, "batches of 3"
    lines = [json.loads(line) for line in store.read_text("telemetry/generate-0.jsonl").splitlines()]
    assert [line["value"] for line in lines if line["metric"] == "stablerep_generate_out_of_memory_total"] == [1, 1]
    said = capsys.readouterr().err
    assert "out of memory with 12 images at once: going on with 6; set generate.batch_size=6" in said
    assert "out of memory with 6 images at once: going on with 3; set generate.batch_size=3" in said


def test_no_room_for_one_image_keeps_what_is_finished(
    model: str, store: Store, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt_set = _prompt_set(store)

    def crowd() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with monkeypatch.context() as patch:
        patch.setattr(DiffusersSampler, "sample", _after(4, crowd))
        with pytest.raises(ConfigError, match=r"expected room for one image .*, found none \(CUDA out of memory.*groups are kept"):
            _lane(model, store, prompt_set)
    assert _lane(model, store, prompt_set).num_images_made == NUM_IMAGES - 4 * 3
    assert _tars(store) == undisturbed
