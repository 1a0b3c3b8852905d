"""What happens in a trial, drawn by its seed: a study, and the faults that it has to live through."""

from __future__ import annotations

from random import Random

from fl_server.federation import JOIN_S
from fl_server.simulation.faults import study as studies
from fl_server.simulation.faults.disk import Blow
from fl_server.simulation.faults.network import Weather
from fl_server.simulation.faults.outcome import HUB, Faults, Trial
from fl_server.simulation.faults.study import Shape
from fl_server.simulation.faults.trial import calm, play

KINDS = ("kill", "power", "full")
# ``gone``: a hub comes back without a silo; ``between``: a silo is lost between the two passes of a round.
EVERY = {
    *KINDS, "flip", "clock", "cut", "lost", "twice", "late", "broken", "dark", "gone", "between"
}  # fmt: skip
DAY = 86400.0


def tried(seed: int) -> Trial:
    """Return what comes of the trial of this seed, which is the same whenever it is asked for."""
    draw = Random(f"faults:{seed}")
    schedule = draw.choice((studies.ALL, studies.ALL, studies.HALF, studies.BUFFERED))
    shape = Shape(
        silos=draw.choice((2, 2, 2, 3, 3, 4)),
        rounds=draw.choice((2, 2, 2, 3, 3, 4)),
        # what a hub believes of residuals follows rounds alone
        codec=draw.choice(studies.CODECS[: 2 if schedule == studies.BUFFERED else 3]),
        schedule=schedule,
    )
    # Two passes want rounds, and a codec that leaves nothing out.
    fits = schedule != studies.BUFFERED and shape.codec == studies.CODECS[0]
    if fits and Random(f"passes:{seed}").random() < 0.4:
        shape = shape._replace(strategy=studies.TWO_PASSES)
    return play(shape, outage(Random(f"down:{seed}"), shape, faults(draw, shape)), seed)


def faults(draw: Random, shape: Shape) -> Faults:
    """Return the faults of a trial: one or two that end a machine, and mostly some weather."""
    still = calm(shape)
    blows: dict[str, dict[int, Blow]] = {}
    for _ in range(draw.choice((1, 1, 2, 3))):
        machine = draw.choice((HUB, *shape.names))
        at = draw.randint(1, still.operations[machine])
        blows.setdefault(machine, {})[at] = Blow(draw.choice(KINDS), draw.randint(1, 5))
    lasts = still.seconds
    kills, flips, jumps = {}, {}, {}
    if draw.random() < 0.3:
        kind = draw.choice(KINDS[:2])
        kills[draw.uniform(1, lasts)] = (draw.choice((HUB, *shape.names)), kind)
    if draw.random() < 0.3:
        flips[draw.uniform(1, lasts)] = draw.choice((HUB, draw.choice(shape.names)))
    if draw.random() < 0.2:
        jumps[draw.uniform(1, lasts)] = draw.choice((-DAY, DAY))
    found = Faults(blows, weather(draw, shape, lasts), jumps, kills, flips)
    if draw.random() < 0.1:
        return later(found, {draw.choice(shape.names): JOIN_S + draw.uniform(0, lasts)})
    return found


def outage(draw: Random, shape: Shape, found: Faults) -> Faults:
    """Return the same faults, in some studies with a silo that is cut off for longer than a round waits.

    In half of those with two passes: what such a cut has to hit there is the short time between them.
    """
    if draw.random() >= (0.5 if shape.strategy == studies.TWO_PASSES else 0.1):
        return found
    begin = draw.uniform(0, calm(shape).seconds)
    cut = (begin, begin + draw.uniform(1, 2.5) * studies.DEADLINE_S)
    lines = found.weather
    return found._replace(weather=lines._replace(cuts=lines.cuts | {draw.choice(shape.names): cut}))


def later(found: Faults, dark: dict[str, float]) -> Faults:
    """Return the same faults in a study that begins when it has waited long enough for silos that are ``dark``."""
    lines = found.weather
    cuts = {name: (begin + JOIN_S, end + JOIN_S) for name, (begin, end) in lines.cuts.items()}
    return Faults(
        found.blows,
        lines._replace(cuts=cuts, until=lines.until + JOIN_S),
        {at + JOIN_S: by for at, by in found.jumps.items()},
        {at + JOIN_S: whom for at, whom in found.kills.items()},
        {at + JOIN_S: where for at, where in found.flips.items()},
        dark,
    )


def weather(draw: Random, shape: Shape, lasts: float) -> Weather:
    """Return how the lines are while a study lasts as long as it should; after that they are good."""
    cuts = {}
    if draw.random() < 0.3:
        begin = draw.uniform(0, lasts)
        cuts[draw.choice(shape.names)] = (begin, begin + draw.uniform(10, 600))
    lost, twice = draw.choice((0.0, 0.02, 0.2)), draw.choice((0.0, 0.1))
    return Weather(lost, twice, draw.choice((0.0, 20.0)), cuts, 2 * lasts)
