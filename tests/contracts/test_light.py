"""The command line answers at once and needs no extra: nothing heavy is imported by `import stablerep` or `--help`."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

HEAVY = ("torch", "diffusers", "transformers", "timm", "deepspeed", "kserve", "feast", "kfp", "pyarrow", "pandas", "fsspec", "numpy")
CHECK = f"import sys; found = [name for name in {HEAVY!r} if name in sys.modules]; assert not found, found"
COMMANDS = {
    "import": f"import stablerep; {CHECK}",
    "help": "import sys\nfrom stablerep.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n" + CHECK,
    "recipes": f"from stablerep.cli import main; main(['recipes']); {CHECK}",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_heavy_is_imported(command: str) -> None:
    result = subprocess.run([sys.executable, "-c", COMMANDS[command]], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", ["import stablerep", "from stablerep.cli import main; main(['recipes'])"])
def test_answers_in_half_a_second(command: str) -> None:
    seconds = min(_seconds(command) for _ in range(5))
    assert seconds < 0.5


def _seconds(command: str) -> float:
    started_at = time.perf_counter()
    subprocess.run([sys.executable, "-c", command], capture_output=True, timeout=60, check=True)
    return time.perf_counter() - started_at


def test_help_names_every_stage() -> None:
    result = subprocess.run([sys.executable, "-m", "stablerep.cli", "--help"], capture_output=True, text=True, timeout=60, check=True)
    from stablerep.stages import STAGES

    assert all(stage in result.stdout for stage in STAGES)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["probe", "--recipe", "quickstrt"], 2, "did you mean 'quickstart'"),
        (["probe", "--set", "pretrain.num_step=1"], 2, "did you mean 'pretrain.num_steps'"),
        (["show", "--set", "generate.images_per_caption=1"], 2, "expected 2 or more"),
        (["commit", "--store", "{tmp}"], 3, "run that stage first"),
    ],
)
def test_errors_are_one_sentence_with_their_exit_code(arguments: list[str], code: int, message: str, tmp_path: Path) -> None:
    arguments = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    result = subprocess.run([sys.executable, "-m", "stablerep.cli", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
