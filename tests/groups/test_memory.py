"""A batch that is too large is halved, counted, and its images are the same: latents bit for bit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_diffusion
import torch

from stablerep.errors import ConfigError
from stablerep.groups.diffusers_sampler import DiffusersSampler
from stablerep.groups.memory import HalvingSampler
from stablerep.groups.sampler import ImageHW3, ImageRequest

REQUESTS = [ImageRequest(f"caption{number // 3}", f"text {number // 3}", number % 3) for number in range(10)]


class SmallDevice:
    """A true sampler on a device with room for so many images; keeps the latents that went into the pipeline."""

    def __init__(self, folder: Path, room: int) -> None:
        self.inner, self.room = DiffusersSampler(folder, **_settings()), room
        self.latents: list[torch.Tensor] = []
        self.calls: list[int] = []
        call = self.inner._pipeline.__call__

        def recorded(**arguments: Any) -> Any:
            self.latents.append(arguments["latents"].clone())
            return call(**arguments)

        self.inner._pipeline = _Recorded(self.inner._pipeline, recorded)

    @property
    def size_px(self) -> int:
        return self.inner.size_px

    def sample(self, requests: Sequence[ImageRequest]) -> list[ImageHW3 | None]:
        self.calls.append(len(requests))
        if len(requests) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore words")
        return self.inner.sample(requests)


class _Recorded:
    def __init__(self, pipeline: Any, call: Any) -> None:
        self._wrapped, self._recorded = pipeline, call

    def __call__(self, **arguments: Any) -> Any:
        return self._recorded(**arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)


def _settings() -> dict[str, Any]:
    return {
        "scheduler": "ddim",
        "num_inference_steps": 1,
        "guidance": 2.0,
        "negative_prompt": "",
        "noise_seed": 0,
        "dtype": "fp32",
        "device": "cpu",
        "size_px": 16,
    }


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_diffusion.write_sd(tmp_path_factory.mktemp("sd") / "model")


def test_halved_until_it_fits_and_the_latents_are_the_same(sd: Path) -> None:
    roomy, small = SmallDevice(sd, 99), SmallDevice(sd, 3)
    halved: list[int] = []
    sampler = HalvingSampler(small, halved.append)
    whole, parts = roomy.sample(REQUESTS), sampler.sample(REQUESTS)
    assert halved == [5, 2]
    assert small.calls == [10, 5, 2, 2, 2, 2, 2]
    assert torch.equal(torch.cat(small.latents), torch.cat(roomy.latents))
    assert all(x is not None and y is not None and abs(x.astype(int) - y).max() <= 1 for x, y in zip(whole, parts, strict=True))
    sampler.sample(REQUESTS[:5])
    assert small.calls[7:] == [2, 2, 2], "the size that fits is kept, and the last call is filled up"
    assert halved == [5, 2]


def test_no_room_for_one_image_says_what_to_do(sd: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected room for one image .*CUDA out of memory.*generate.dtype=fp16.*groups are kept"):
        HalvingSampler(SmallDevice(sd, 0)).sample(REQUESTS)
