"""What the silos of a study are sent, and what each of them sends back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from fl_client import messages
from fl_client.messages import Content, Order
from fl_server import cohort as cohorts
from fl_server import estimates, record, visits
from fl_server import run as runs
from fl_server.journal import State
from fl_server.run import RoundFailed, Run
from fl_server.silos import Silo
from strategies import adapter as algebra
from strategies import broadcast as encoded
from strategies import widths
from strategies.adapter import Adapter, Layout
from strategies.strategy import Strategy

T = TypeVar("T")
Own = Mapping[str, Mapping[str, int]]  # by silo, fields of its order
Kind = tuple[int | None, tuple[str, ...]]  # a silo's rank where it is below the study's, its groups


def layouts(run: Run, number: int, silo: Silo) -> tuple[Layout, Layout]:
    """Return the shapes of what a silo sends in a round: in its first pass, and in the second where there is one."""
    shapes, strategy = algebra.layout(run.start), run.parts.strategy
    if silo.name in run.ranks:
        shapes = widths.of(shapes, silo.rank)
    sent = {name: s for name, s in shapes.items() if strategy.sent(name, number)}
    return strategy.passes.layouts(sent, run.base.sketch) if strategy.passes else (sent, {})


def contents(
    run: Run, state: State, final: bool = False, training: bool = False, own: Own | None = None
) -> list[tuple[Silo, Content]]:
    """Return what each silo is sent: its groups' tensors, less those still at the start that it makes itself.

    Control variates go out for ``training`` alone. What silos of the same groups and rank are sent is made once. Where
    silos keep no common step, ``own`` holds what each of those that are asked is told of its own.
    """
    recorded = [line for line in record.lines(run.folder) if line["round"] <= state.round]
    found: list[tuple[Silo, Content]] = []
    if own is None:
        own = _own(run, recorded, training)
    for members in cohorts.components(run.cohort):
        best = record.best(recorded, members)
        released = released_from(run, state, best) if final else state
        order = run.base._replace(after=released.round, best=best, final=final)
        present = [s for s in run.cohort.silos if s.name in members and s.name in own]
        found += _addressed(run, released, order, present, own, training)
    return found


def _own(run: Run, recorded: list[record.Line], training: bool) -> Own:
    """Return what all silos are told of their own: how often they trained, or which of their updates are lost."""
    names = [silo.name for silo in run.cohort.silos]
    if run.schedule.buffer is not None:
        due = visits.due(recorded)
        return {name: due(name)._asdict() for name in names}
    if not training:
        return {name: {} for name in names}
    since = estimates.lost(recorded, estimates.first(run, recorded))
    return {name: {"lost": since(name)} for name in names}


def _addressed(
    run: Run, released: State, order: Order, present: list[Silo], own: Own, training: bool
) -> list[tuple[Silo, Content]]:
    merged = groups(run.parts.strategy, released)
    travel = alike(run, present, lambda s: _travels(run, merged, order, s, training))
    offers = alike(run, present, lambda s: run.grid.lay_out(travel[s.name], _kind(run, s)))
    packed = alike(run, present, lambda s: messages.packed(travel[s.name], offers[s.name]))
    starts = alike(run, present, lambda s: _start_sha256(run, s))
    orders = {
        name: order._replace(start_sha256=start, **own[name])  # type: ignore[arg-type]
        for name, start in starts.items()
    }
    return [(s, messages.addressed(orders[s.name], packed[s.name])) for s in present]


def alike(run: Run, silos: Iterable[Silo], make: Callable[[Silo], T]) -> dict[str, T]:
    """Return what is made for each silo, made once for those of the same groups and rank."""
    made: dict[Kind, T] = {}
    found = {}
    for silo in silos:
        kind = _kind(run, silo)
        if kind not in made:
            made[kind] = make(silo)
        found[silo.name] = made[kind]
    return found


def _kind(run: Run, silo: Silo) -> Kind:
    return run.ranks.get(silo.name), tuple(run.cohort.groups[silo.name])


def _start_sha256(run: Run, silo: Silo) -> str:
    if silo.name not in run.ranks:
        return run.base.start_sha256
    return algebra.sha256(widths.cut(algebra.trained(run.start), silo.rank))


def _travels(
    run: Run, merged: dict[str, Adapter], order: Order, silo: Silo, training: bool
) -> Adapter:
    adapter = _received(run, merged, silo)
    arrays = {n: x for n, x in adapter.items() if run.parts.strategy.changed(n, order.round)}
    beside = algebra.controls(arrays) if training else {}
    if order.final:  # what silos may serve is the very adapter that is released
        return algebra.trained(arrays) | beside
    codec, seed = run.parts.broadcast, run.study.seed
    return encoded.encode(algebra.trained(arrays), codec, seed, order.round) | beside


def start(run: Run, state: State, silo: Silo) -> Adapter:
    """Return all shared tensors as a silo holds them when the round after ``state`` begins."""
    return _received(run, groups(run.parts.strategy, state), silo)


def _received(run: Run, merged: dict[str, Adapter], silo: Silo) -> Adapter:
    adapter = cohorts.adapter_of(run.cohort, silo, merged, run.parts.strategy)
    return run.parts.strategy.cut(adapter, silo.rank) if silo.name in run.ranks else adapter


def groups(strategy: Strategy, state: State) -> dict[str, Adapter]:
    """Return what the silos of each group are to hold after a round."""
    return {g: strategy.broadcast(a, state.strategy[g]) for g, a in state.adapter.items()}


def released_from(run: Run, state: State, best: int) -> State:
    """Return the committed state of the best round (0: the state given); raises ``RoundFailed`` if it is damaged."""
    released = state if best in (0, state.round) else runs.recall(run, best)
    if released is None:
        raise RoundFailed(f"the record of round {best} in {run.folder} is damaged")
    return released
