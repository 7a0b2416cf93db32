"""gate: may the model be deployed?

Three questions: is it good enough, is it better than an untrained trunk of its shape, and is it not worse than the champion of the same
suite. The champion comes from the catalogue (Feast's online store where there is one). Both encoders answered the same test images, so
their difference is bootstrapped image by image; a model is held back only when even the upper end of that interval is more than
`gate.max_below_champion` below the champion. The decision is kept beside the evaluation. Needs neither torch nor the images.
"""

from typing import TYPE_CHECKING

from stablerep.errors import DataError
from stablerep.records import Evaluation, GateDecision
from stablerep.stages.catalogue_choice import open_catalogue
from stablerep.stages.context import Stage, open_stage

if TYPE_CHECKING:
    from stablerep.catalogue import Champion
    from stablerep.probes.result import ProbeResult

Verdict = tuple[bool, str]


def run(recipe: str, overrides: str, store: str, *, evaluation: str) -> GateDecision:
    """Decide on a model.

    Args:
        recipe: name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
        evaluation: record of `probe`.

    Raises:
        DataError: the evaluation is not in the store.
    """
    from stablerep.probes.result import read_result, result_key

    with open_stage("gate", recipe, overrides, store) as stage:
        result = read_result(stage.store, Evaluation.from_json(evaluation))
        model_id, suite = result.evaluation.model_id, result.evaluation.suite
        champion = open_catalogue(stage.store, stage.recipe.gate.has_catalogue).champion(suite)
        limits = stage.recipe.gate
        verdicts = [
            _accuracy(result, limits.min_accuracy),
            _over_random_init(result, limits.min_over_random_init),
            _champion(stage, result, champion, limits.max_below_champion),
        ]
        decision = GateDecision(
            model_id,
            all(is_passed for is_passed, _ in verdicts),
            tuple(reason for _, reason in verdicts),
            champion.model_id if champion else "",
            champion.accuracy if champion else 0.0,
        )
        stage.reporter.report("stablerep_gate_promoted", float(decision.is_promoted))
        stage.store.write(result_key(model_id, suite).replace("result.json", "decision.json"), decision.to_json())
        return decision


def _accuracy(result: "ProbeResult", minimum: float) -> Verdict:
    score = result.headline("encoder")
    is_passed = score.accuracy >= minimum
    found = f"the linear probe reaches {_percent(score.accuracy)} [{_percent(score.low)}, {_percent(score.high)}]"
    return is_passed, f"{_mark(is_passed)}: {found}; gate.min_accuracy asks for {_percent(minimum)}"


def _over_random_init(result: "ProbeResult", minimum: float) -> Verdict:
    difference = next((d for d in result.differences if d.source == "random_init"), None)
    if difference is None:
        raise DataError(f"{result.evaluation.uri}: expected a comparison with random_init, found none; delete result.json and probe again")
    is_passed = difference.mean >= minimum
    found = f"{_points(difference.mean)} [{_points(difference.low)}, {_points(difference.high)}] over an untrained trunk of the same shape"
    return is_passed, f"{_mark(is_passed)}: {found}; gate.min_over_random_init asks for {_points(minimum)}"


def _champion(stage: Stage, result: "ProbeResult", champion: "Champion | None", tolerance: float) -> Verdict:
    from stablerep.probes.bootstrap import paired_difference
    from stablerep.probes.result import find_result

    if champion is None:
        return True, f"passed: no champion on {result.evaluation.suite} yet"
    if champion.model_id == result.evaluation.model_id:
        return True, f"passed: the model is the champion on {result.evaluation.suite} itself"
    rival = find_result(stage.store, champion.model_id, result.evaluation.suite)
    if rival is not None:
        settings = result.protocol
        answers = result.answers("encoder"), rival.answers("encoder")
        mean, low, high = paired_difference(*answers, settings["num_bootstrap"], settings["seed"])
        how = "on the same test images"
    else:
        score = result.headline("encoder")
        mean, low, high = score.accuracy - champion.accuracy, score.low - champion.high, score.high - champion.low
        how = "by the ends of both intervals, its answers are not in the store"
    is_passed = high >= -tolerance
    found = f"{_points(mean)} [{_points(low)}, {_points(high)}] against champion {champion.model_id} ({_percent(champion.accuracy)}), {how}"
    return is_passed, f"{_mark(is_passed)}: {found}; gate.max_below_champion allows {_points(-tolerance)} for the upper end"


def _mark(is_passed: bool) -> str:
    return "passed" if is_passed else "failed"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(share: float) -> str:
    return f"{100 * share:+.1f} points"
