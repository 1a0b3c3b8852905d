"""What is said below a table of methods: how far it can be trusted, and which runs alone they are set against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Table = Mapping[str, Any]


class Alone(NamedTuple):
    """What silos reach alone with as many parameters as some methods, at which ends of the rates how often."""

    name: str
    mean: dict[str, Any] | None
    edge: str
    methods: list[str]


def alones(methods: Table) -> list[Alone]:
    """Return alone as it stands beside labelled methods, then what it is for those with a larger private adapter."""
    plain = methods["alone"]
    found = {plain["private"]: Alone("alone", plain["mean"], at_edge(plain["edge"]), [])}
    for label, method in methods.items():
        if own := method.get("alone"):
            name = with_private(own["private"])
            other = Alone(name, own["mean"], at_edge(own["edge"]), [])
            found.setdefault(own["private"], other).methods.append(label)
    return list(found.values())


def with_private(rank: int) -> str:
    """Return what silos alone are called that have a private adapter too."""
    return f"alone with a private adapter of rank {rank}"


def at_edge(edge: Mapping[str, int]) -> str:
    """Return in how many runs of silos alone the first or last rate was best, empty where in none."""
    ends = [end for end in ("lowest", "highest") if edge[end]]
    return " and ".join(f"the {end} tried in {edge[end]} of {edge['of']} runs" for end in ends)


def swept(sweep: Table, specs: Mapping[str, str]) -> list[str]:
    """Return the notes on a sweep whose methods have these labels."""
    seeds, methods = len(sweep["seeds"]), sweep["methods"]
    labelled = {label: methods[spec] for label, spec in specs.items()}
    said = [f"± is the 95 % interval over {seeds} seeds" if seeds > 1 else "one seed: no intervals"]
    edges = ", ".join(label for label, m in labelled.items() if label != "alone" and m.get("edge"))
    said += [f"best at the edge of the rates tried, so try more: {edges}"] if edges else []
    plain, *others = alones(labelled)
    for own in (plain, *others):
        if own.edge:
            said.append(f"best rate of silos {own.name}: {own.edge}, so try more")
    for own in others:
        said.append(f"{', '.join(own.methods)} against silos {own.name}: {_mean(own.mean)}")
    said += [f"{label} is {spec}" for label, spec in specs.items() if label != spec]
    broke = sum("failed" in cell for cell in sweep["cells"].values())
    return said + ([f"{broke} cells broke off and are left out"] if broke else [])


def compared(comparison: Table) -> list[str]:
    """Return the notes on a comparison."""
    return [
        f"{', '.join(own['methods'])} has {with_private(own['private'])} beside it: mean {own['mean']:.3f}"
        for own in comparison["also_alone"]
        if own["mean"] is not None
    ]


def _mean(interval: Mapping[str, Any] | None) -> str:
    return f"{interval['mean']:.3f}" if interval else "no mean"
