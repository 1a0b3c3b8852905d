"""Buffered updates: silos never wait for each other, and every so many updates make a commit (FedBuff, Nguyen et al.
2021, arXiv 2106.06639).

A silo is asked again, with the newest adapter, as soon as its update was taken. An update that was trained on the
adapter of tau commits ago counts by its silo's weight times (1 + tau)^-1/2; beyond ``max_staleness`` it is refused.

Departs from the paper: silos may weigh differently, and a group of silos moves by the sum of weighted updates over the
weight of all its silos, not over how many updates make a commit, and by their mean where more came than that. So two
silos of a language that answer in turn go as far as together, where each would else take a whole step, and an update
that is alone in its group and late does not count in full; no rate of the hub's has to be found for a size. A silo that
was not heard for more than ``max_staleness`` commits has no weight among them until it comes back. With ``scale_steps``
a slow silo is asked fewer steps (DyLU, Liu et al. 2024, arXiv 2401.09135).
"""

from __future__ import annotations

from strategies.schedules.schedule import Buffer, Schedule, by


def buffered(
    size: int = 4, max_staleness: int = 8, deadline_s: float = 3600.0, scale_steps: bool = False
) -> Schedule:
    """Commit when ``size`` updates have come, from whichever silos; give up where a commit takes too long.

    Args:
        size: how many updates make a commit, which counts as a round.
        max_staleness: by how many commits an adapter may be behind for an update of it to count.
        deadline_s: seconds that a commit, or scores, are waited for.
        scale_steps: a silo trains as many steps as its speed is of the fastest one's, at least one.
    """
    if size < 1:
        raise ValueError(f"{size=} updates make no commit; give 1 or more")
    if max_staleness < 0:
        raise ValueError(f"{max_staleness=} must be 0 commits or more")
    waits = by(deadline_s)

    def discount(staleness: int) -> float:
        return float((1 + staleness) ** -0.5) if staleness <= max_staleness else 0.0

    def share(speed: float, fastest: float) -> float:
        return speed / fastest if scale_steps else 1.0

    def needed(asked: int) -> int:
        return min(size, asked)

    return Schedule(
        waits,
        lambda asked, answered: answered >= needed(asked),
        needed,
        lambda names, seed, number: list(names),
        waits,
        Buffer(size, max_staleness, discount, share),
    )
