"""Who merges with whom in a study: the groups of each silo, and what each of them receives."""

from __future__ import annotations

from typing import NamedTuple

from fl_server.silos import Silo
from strategies import adapter as algebra
from strategies.adapter import Adapter
from strategies.product import modules
from strategies.scope import finest, group
from strategies.strategy import Strategy


class Cohort(NamedTuple):
    """The silos of a study and, for each, the tensors that it shares in each of its groups."""

    silos: list[Silo]
    groups: dict[str, dict[str, list[str]]]  # silo -> group -> tensor names


def gather(silos: list[Silo], strategy: Strategy, tensors: list[str]) -> Cohort:
    """Return the groups of each silo for the shared tensors of a study; a tensor may be in two of them."""
    groups: dict[str, dict[str, list[str]]] = {}
    for silo in silos:
        own = groups.setdefault(silo.name, {})
        for name in tensors:
            for within in _merged_in(strategy, silo, name):
                own.setdefault(within, []).append(name)
    return Cohort(silos, groups)


def _merged_in(strategy: Strategy, silo: Silo, name: str) -> list[str]:
    found = (group(within, silo.language, silo.name) for within in strategy.within(name))
    return list(dict.fromkeys(found))  # two scopes may give one group


def sketch(cohort: Cohort, strategy: Strategy, ranks: dict[str, int], asked: int) -> int:
    """Return the size of what is sent in two passes: enough for each group that merges LoRA pairs; 0 for one pass.

    Of a group no more silos are ``asked`` in a round.
    """
    merging: dict[str, list[int]] = {}
    for silo, own in cohort.groups.items():
        for within in (w for w, names in own.items() if modules(names)):
            merging.setdefault(within, []).append(ranks[silo])
    most = [sorted(each, reverse=True)[:asked] for each in merging.values()]
    sizes = strategy.passes and map(strategy.passes.size, most)
    return max(sizes or (), default=0)


def start(cohort: Cohort, shared: Adapter) -> dict[str, Adapter]:
    """Return the first adapter of every group."""
    return {
        within: algebra.pick(shared, names)
        for own in cohort.groups.values()
        for within, names in own.items()
    }


def renewed(
    groups: dict[str, Adapter], strategy: Strategy, seed: int, number: int
) -> dict[str, Adapter]:
    """Return the adapter of every group as a round begins."""
    return {within: strategy.renewed(held, seed, number) for within, held in groups.items()}


def adapter_of(
    cohort: Cohort, silo: Silo, groups: dict[str, Adapter], strategy: Strategy
) -> Adapter:
    """Return all shared tensors, and what is merged, as one silo receives them."""
    received: Adapter = {}
    for name in sorted({n for within in cohort.groups[silo.name] for n in groups[within]}):
        held = [groups[within][name] for within in _merged_in(strategy, silo, name)]
        received[name] = held[0] if len(held) == 1 else strategy.mix(*held)
    return received


def folder_of(cohort: Cohort, silo: Silo, strategy: Strategy) -> str:
    """Return the name of the adapter that a silo's language is released under: that of its narrowest group."""
    names = {name for own in cohort.groups[silo.name].values() for name in own}
    narrowest = finest({strategy.scope(name) for name in names})
    return "_".join(sorted({group(within, silo.language, silo.name) for within in narrowest}))


def components(cohort: Cohort) -> list[list[str]]:
    """Return the silos that are linked by sharing some group, directly or through others, as lists of names."""
    linked: list[tuple[set[str], set[str]]] = []  # (silos, groups)
    for silo, own in cohort.groups.items():
        silos, groups = {silo}, set(own)
        apart = []
        for other in linked:
            if other[1] & groups:
                silos, groups = silos | other[0], groups | other[1]
            else:
                apart.append(other)
        linked = [*apart, (silos, groups)]
    return sorted(sorted(silos) for silos, _ in linked)
