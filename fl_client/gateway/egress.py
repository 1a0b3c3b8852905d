"""How much leaves: in one round of a study, and in one day. The day's sum is in the record, so a restart keeps it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from fl_client import audit
from fl_client.policy import Egress

REMEMBERED = 64  # rounds, and replies
Round = tuple[int, str]


class Meter:
    """Counts what leaves. The same object sent again, as after a cut, counts once in its round and twice in its day."""

    def __init__(self, folder: Path) -> None:
        self.day = _today()
        self.sent_today = sum(entry.bytes for entry in audit.read(folder, self.day))
        self._rounds: dict[Round, dict[str, int]] = {}
        self._replies: dict[str, Round] = {}

    def announce(self, session: str, run: int, round: str) -> None:
        """Note to which round of a run the objects of a reply belong; where none is named, it counts by itself."""
        self._replies[session] = run, round or session
        _forget(self._replies)

    def round_of(self, session: str) -> str:
        """Return the round of a reply, '' where it is not known."""
        _, round = self._replies.get(session, (0, session))
        return "" if round == session else round

    def fits(self, session: str, run: int, object_: str, size: int, most: Egress) -> bool:
        """Return whether an object of a reply may leave."""
        held = self._rounds.setdefault(self._replies.get(session, (run, session)), {})
        _forget(self._rounds)
        others = sum(own for name, own in held.items() if name != object_)
        if others + size > most.max_bytes_per_round or not self.today(size, most):
            return False
        held[object_] = size
        return True

    def today(self, size: int, most: Egress) -> bool:
        """Return whether so many bytes more may leave today."""
        if self.day != _today():
            self.day, self.sent_today = _today(), 0
        return self.sent_today + size <= most.max_bytes_per_day

    def count(self, size: int) -> None:
        """Count bytes that leave."""
        self.sent_today += size


def _forget(table: dict[str, Round] | dict[Round, dict[str, int]]) -> None:
    while len(table) > REMEMBERED:
        del table[next(iter(table))]  # type: ignore[arg-type]


def _today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")
