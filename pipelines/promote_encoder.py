"""An encoder that was measured goes through the gate and, if it passes, into service: runs under an account that may deploy, not train."""

import sys
from pathlib import Path

from kfp import dsl

sys.path.append(str(Path(__file__).resolve().parent.parent))  # `kfp dsl compile` runs this file from anywhere

from pipelines import parts


@dsl.pipeline(name="promote-encoder", description="A measured vision encoder to a served endpoint, or a reason why not.")
def promote_encoder(store: str, recipe: str = "quickstart", overrides: str = "", model: str = "", evaluation: str = ""):
    """Run the stages from the gate on.

    Args:
        store: URI under which everything is kept: file://, s3:// or gs://.
        recipe: Name of a recipe, see `stablerep recipes`.
        overrides: `section.key=value` words, as the encoder was made with.
        model: Record of `export`; empty: the one of this recipe and these overrides in the store.
        evaluation: Record of `probe`; empty: the one of this recipe and these overrides in the store.
    """
    run = {"recipe": recipe, "overrides": overrides, "store": store}
    with dsl.ExitHandler(parts.report(run), name="run"):
        parts.promote(run, parts.Encoder(model, evaluation), after=parts.checked(run, parts.PROMOTION_STAGES))
