"""The verbs, one a file: records in, a record out; run again, each continues where it was.

prepare -> generator -> generate -> commit -> pretrain -> export -> probe -> gate -> deploy -> verify, between preflight and finish;
a model that the gate turns down goes to hold instead of deploy.
"""

INPUTS: dict[str, tuple[str, ...]] = {
    "preflight": (),
    "prepare": (),
    "generator": (),
    "generate": ("prompt_set", "generator", "lane"),
    "commit": ("prompt_set", "generator", "lanes"),
    "pretrain": ("dataset",),
    "export": ("dataset", "generator", "checkpoint"),
    "probe": ("model",),
    "gate": ("evaluation",),
    "deploy": ("model", "decision"),
    "verify": ("model", "endpoint"),
    "hold": ("decision",),
    "finish": (),
}
"""Stage verb -> what it takes beyond recipe, overrides and store."""

STAGES = tuple(INPUTS)
