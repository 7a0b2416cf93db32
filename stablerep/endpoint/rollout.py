r"""A new encoder takes over the traffic of an endpoint on a cluster: dark, in steps, or back.

    nothing --launch--> dark --check--> step p1 --watch--> step p2 ... --promote--> served
                          \________________|________________/
                                        withdraw: what was served before has all of the traffic again

The state is read back from the cluster before every move (`Strategy.read`), so a task that was killed goes on where it was, and one that
never comes back leaves the old encoder serving. One strategy a backend: `rollout_knative`, `rollout_standard`, `rollout_blue_green`.
"""

import logging
from collections.abc import Callable, Sequence

from stablerep.endpoint.observed import Place
from stablerep.endpoint.release import Release, RolloutState
from stablerep.endpoint.strategy import Strategy
from stablerep.errors import GateError

log = logging.getLogger("stablerep")


def launch_dark(strategy: Strategy, wanted: Release) -> Place:
    """Have `wanted` running beside what is served, with no traffic (all of it where nothing was served and Knative routes it).

    Returns:
        Its dark address; the live one where it is served already.

    Raises:
        LaunchError: it is not ready in time; what is served stays served.
    """
    state = strategy.read()
    if state.candidate and state.percent == 100 and state.candidate != wanted:
        log.warning("endpoint %s: finishing the promotion of %s first", strategy.endpoint.name, state.candidate.model_id)
        strategy.promote()
        state = strategy.read()
    if state.candidate == wanted:
        return strategy.wait_candidate(wanted)
    if state.served == wanted:
        if state.candidate:
            strategy.withdraw()
        return strategy.wait_served(wanted)
    strategy.launch(wanted)
    return strategy.wait_candidate(wanted)


def roll_out(
    strategy: Strategy,
    wanted: Release,
    percents: Sequence[int],
    check: Callable[[Place], str],
    watch: Callable[[Place, int], str],
) -> Place:
    """Check `wanted`, give it more and more of the traffic, and make it what is served.

    Args:
        strategy: of the backend.
        wanted: what `launch_dark` launched.
        percents: rising shares of the traffic to be watched at, none where traffic moves at once.
        check: asks a place for golden embeddings; returns what is wrong, empty when all is right.
        watch: watches one step; returns why it failed, empty when it passed.

    Returns:
        Where callers inside the cluster find what is served.

    Raises:
        GateError: a check or a step failed and what was served before is served again; or `wanted` was never launched.
        LaunchError: the cluster did not do what it was asked in time; run again to go on.
    """
    state = _expect(strategy, wanted)
    if state.candidate is None:
        place = strategy.wait_served(wanted)
        _judge(strategy, wanted, check(place), "while it was served")
        return place
    place = strategy.wait_candidate(wanted)
    if state.percent < 100:
        _judge(strategy, wanted, check(place), "before it got any traffic" if not state.percent else f"at {state.percent} % of the traffic")
        for percent in percents if state.served else ():
            if percent >= state.percent:
                _step(strategy, wanted, percent, place, watch)
    strategy.promote()
    return strategy.wait_served(wanted)


def _step(strategy: Strategy, wanted: Release, percent: int, place: Place, watch: Callable[[Place, int], str]) -> None:
    _expect(strategy, wanted)
    strategy.set_percent(percent)
    log.info("endpoint %s: %s has %d %% of the traffic", strategy.endpoint.name, wanted.model_id, percent)
    _judge(strategy, wanted, watch(place, percent), f"at {percent} % of the traffic")


def _expect(strategy: Strategy, wanted: Release) -> RolloutState:
    """The state, in which `wanted` is the candidate or what is served."""
    state = strategy.read()
    if wanted not in (state.candidate, None if state.candidate else state.served):
        known = {"serves": state.served, "has the candidate": state.candidate}
        found = ", ".join(f"{words} {release.model_id}" for words, release in known.items() if release) or "serves nothing"
        name = strategy.endpoint.name
        raise GateError(f"endpoint {name!r}: expected {wanted.model_id} as this recipe deploys it, but it {found}; deploy again")
    return state


def _judge(strategy: Strategy, wanted: Release, problem: str, when: str) -> None:
    if not problem:
        return
    log.error("endpoint %s: %s failed %s and is taken back: %s", strategy.endpoint.name, wanted.model_id, when, problem)
    strategy.withdraw()
    served = strategy.read().served
    now = f"serves {served.model_id} again" if served else "serves nothing"
    if served == wanted:
        now = "still serves it, because nothing is kept to fall back to"
    raise GateError(f"{wanted.model_id} failed {when}: {problem}; it is not promoted and endpoint {strategy.endpoint.name!r} {now}")
