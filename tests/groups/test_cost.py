"""What `stablerep plan` says: evaluations, TFLOP, hours and money from a few numbers, and which of them are assumed."""

import subprocess
import sys

import pytest

from stablerep.config import load_recipe
from stablerep.errors import ConfigError
from stablerep.groups.cost import GPUS, cost, gpu_named, gpu_of_device, tflop_per_image
from stablerep.stages.plan import plan_table


@pytest.mark.parametrize(
    ("num_steps", "num_base_steps", "guidance", "expected"),
    [(50, 0, 2.0, 82.8), (20, 0, 2.0, 34.6), (4, 0, 1.0, 5.7), (4, 1, 2.0, 6.5), (50, 0, 0.0, 42.7)],
)
def test_tflop_of_an_image(num_steps: int, num_base_steps: int, guidance: float, expected: float) -> None:
    assert tflop_per_image(num_steps, num_base_steps, guidance) == pytest.approx(expected, abs=0.06)


def test_hours_and_money() -> None:
    found = cost(1e6, 82.8, GPUS["h200"], 2.5, 0.45)
    assert found.images_per_second == pytest.approx(790 * 0.45 / 82.8)
    assert found.gpu_hours == pytest.approx(1e6 / found.images_per_second / 3600)
    assert found.money == pytest.approx(2.5 * found.gpu_hours)


def test_numbers_that_cannot_be() -> None:
    for wrong in ((0, 1, 0.5), (1, -1, 0.5), (1, 1, 0), (1, 1, 1.1)):
        with pytest.raises(ConfigError, match="expected captions above 0"):
            cost(wrong[0], 80, GPUS["h100"], wrong[1], wrong[2])
    with pytest.raises(ConfigError, match="--gpu: expected one of h200, h100, a100, l4, found 'h10', did you mean 'h100'"):
        gpu_named("h10")


def test_a_driver_names_its_gpu() -> None:
    assert gpu_of_device("NVIDIA H100 80GB HBM3") is GPUS["h100"]
    assert gpu_of_device("NVIDIA L40S") is None
    assert gpu_of_device("") is None


def test_the_table_says_what_is_measured_computed_and_assumed() -> None:
    table = plan_table("cc12m_b16", "generate.images_per_caption=4 pretrain.images_per_caption=4", captions=10e6, gpu="h100", price=2.5)
    lines = table.splitlines()
    assert lines[0] == "10,000,000 captions x 4 images, 1 x h100, 2.5 a GPU hour, SD 1.5 at 512 px"
    rows = {line.split("  ")[0].strip(): line.split() for line in lines[2:] if line}
    assert rows["sd15_ddim50"][1:4] == ["100", "82.8", "4.3"]
    assert rows["sd15_lcm4"][1] == "5"
    hours = 10e6 * 4 / (790 * 0.45 / 82.815) / 3600
    assert rows["sd15_ddim50"][5] == f"{hours:,.0f}"
    assert rows["sd15_ddim50"][7] == f"{2.5 * hours:,.0f}"
    assert all(
        any(line.startswith(word) for line in lines) for word in ("computed:", "assumed: matrix", "assumed: a lane", "not included:")
    )


def test_the_command_imports_no_torch() -> None:
    code = (
        "import sys; from stablerep.cli import main\n"
        "main('plan --captions 10e6 --gpu h100 --price 2.5'.split())\n"
        "print([name for name in ('torch', 'diffusers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "sd15_dpm20" in done.stdout


def test_a_preset_is_short_for_its_words() -> None:
    short = load_recipe("cc12m_b16", "generate.preset=sd15_dpm20")
    assert short == load_recipe("cc12m_b16", "generate.scheduler=dpm++ generate.num_inference_steps=20")
    assert load_recipe("cc12m_b16", "generate.preset=sd15_dpm20 generate.num_inference_steps=30").generate.num_inference_steps == 30
    fast = load_recipe("cc12m_b16", "generate.preset=sd15_lcm4 generator.lora=/models/lcm.safetensors").generate
    assert (fast.scheduler, fast.num_inference_steps, fast.num_base_steps) == ("lcm", 4, 1)
    with pytest.raises(ConfigError, match=r"generate.num_base_steps=1: expected generator.lora=<file.safetensors>"):
        load_recipe("cc12m_b16", "generate.preset=sd15_lcm4")
    with pytest.raises(ConfigError, match="unknown preset 'sd15_dpm2', did you mean 'sd15_dpm20'"):
        load_recipe("cc12m_b16", "generate.preset=sd15_dpm2")
    with pytest.raises(ConfigError, match=r"generate.num_base_steps: expected 0 to 49, found 50"):
        load_recipe("cc12m_b16", "generate.num_base_steps=50 generator.lora=x.safetensors")
