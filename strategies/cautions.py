"""What a study is told as it begins: of choices that work together, and that do worse than others would.

One row a rule, as in ``combine.py``: a sentence with a code, the reason and what to choose instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from strategies.parts import Parts


def cautions(parts: Parts) -> list[str]:
    """Return every caution about these parts."""
    return [said for rule in RULES if (said := rule(parts))]


def momentum_runs_ahead_of_late_updates(parts: Parts) -> str:
    """C31 again: momentum that moves on with every commit, of updates that began some commits ago."""
    if not parts.buffered or not parts.outer.heavy:
        return ""
    return (
        "momentum that moves on with every commit of a buffer runs ahead of updates that come late, and may run away "
        "[C31]; choose outer='delayed_nesterov()', which moves on after several, or 'mean()'"
    )


RULES: Iterable[Callable[[Parts], str]] = (momentum_runs_ahead_of_late_updates,)
