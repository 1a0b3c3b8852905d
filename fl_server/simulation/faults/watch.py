"""What is seen of a silo from outside while it works: its steps, what it lost at its ends, how long it was silent."""

from __future__ import annotations

from collections import Counter

from fl_server.simulation.faults.worker import Step


class Watch:
    """What one silo did. ``steps`` counts how often each step was done.

    ``broken`` counts by round and adapter how often it ended before that update was durable; ``silent`` is the longest
    that it lived without asking anything.
    """

    def __init__(self) -> None:
        self.steps: Counter[Step] = Counter()
        self.broken: Counter[tuple[int, str]] = Counter()
        self.silent = 0.0
        self._since: float | None = None  # when it was heard last, if it lives
        self._at: Step | None = None  # the last step of an update that is not durable yet

    def heard(self, now: float) -> None:
        """It started, or asked something."""
        self.silent = max(self.silent, now - (now if self._since is None else self._since))
        self._since = now

    def ended(self, now: float) -> None:
        """It was killed, or ended."""
        self.heard(now)
        self._since = None
        if self._at is not None:
            self.broken[self._at.round, self._at.base] += 1
            self._at = None

    def did(self, step: Step) -> None:
        """It did a step."""
        self.steps[step] += 1
        self._at = step

    def durable(self) -> None:
        """Its update is on its disk."""
        self._at = None

    def closed(self, now: float) -> Watch:
        """Return this as the trial ends: a silo that lives may be silent still."""
        if self._since is not None:
            self.heard(now)
        return self
