"""Runs the stage `pretrain` in a process of its own, as a pipeline task does: `python stage_process.py STORE DATASET OVERRIDES`.

Ends with the exit code of the error, prints the record. `CHECK_LIGHT=1` fails when torch was imported.
"""

import os
import sys

from stablerep.errors import StablerepError
from stablerep.stages import pretrain

try:
    record = pretrain.run("smoke", sys.argv[3], sys.argv[1], dataset=sys.argv[2])
except StablerepError as error:
    sys.stderr.write(f"{type(error).__name__}: {error}\n")
    sys.exit(error.exit_code)
if os.environ.get("CHECK_LIGHT"):
    assert "torch" not in sys.modules
    assert "torchx" not in sys.modules
sys.stdout.write(record.to_json())
