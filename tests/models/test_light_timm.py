import subprocess
import sys

PROGRAM = """
import sys
from stablerep.models.light_timm import import_timm_without_compiler
import_timm_without_compiler()
assert "timm" in sys.modules and "torch._dynamo" not in sys.modules and "sympy" not in sys.modules
import torch
from stablerep.models import build_trunk, compile_trunk
shape = dict(size_px=32, patch_px=8, width=24, depth=2, num_heads=2)
trunk = build_trunk("vit_tiny_patch16_224", seed=0, **shape).eval()
images = torch.randn(2, 3, 32, 32)
with torch.inference_mode():
    expected = trunk(images)
    assert "torch._dynamo" not in sys.modules
    compile_trunk(trunk, backend="eager")
    torch.testing.assert_close(trunk(images), expected)
assert hasattr(sys.modules["torch._dynamo"], "optimize")
import_timm_without_compiler()
"""


def test_timm_comes_without_the_compiler_which_still_works_when_it_is_asked_for() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
