"""How far this machine's clock is from the hub's, in words.

No round rests on a silo's clock: the hub's gateway signs for Flower with its own. The hub's certificate is checked by
it, ``update_hours`` are looked up by it, and logs and the silo's record are written by it.
"""

from __future__ import annotations

from fl_client.checks.check import span

APART_S = 30.0
REMEDY = "set this machine's clock, best by a time service (NTP)"


def apart(ahead_s: float) -> str:
    """Return how far apart the clocks are, such as ``24 h ahead of the hub's``."""
    return f"{span(abs(ahead_s))} {'ahead of' if ahead_s > 0 else 'behind'} the hub's"


def warning(ahead_s: float) -> str:
    """Return what a silo's people should know of a clock that is off, and do; '' where it is not."""
    if abs(ahead_s) <= APART_S:
        return ""
    return (
        f"this machine's clock is {apart(ahead_s)}, so update_hours and the times in its logs and record are off; "
        f"{REMEDY}; the silo takes part all the same"
    )
