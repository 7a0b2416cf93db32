"""The verbs, one a file: records in, a record out; run again, each continues where it was.

prepare -> generator -> generate -> commit -> pretrain -> export -> probe -> gate -> deploy -> verify, between preflight and finish.
"""

STAGES = (
    "preflight",
    "prepare",
    "generator",
    "generate",
    "commit",
    "pretrain",
    "export",
    "probe",
    "gate",
    "deploy",
    "verify",
    "finish",
)
