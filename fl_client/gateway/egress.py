"""How much leaves: in one round of a study, and in one day. The day's sum is in the record, so a restart keeps it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from fl_client import audit
from fl_client.parcels import Parcel
from fl_client.policy import Egress

PARCEL = "/v1/silo/parcel"  # the path of updates, as the record names it
REMEMBERED = 64  # rounds, and replies
Round = tuple[int, str]


class Meter:
    """Counts what leaves. The same object sent again, as after a cut, counts once in its round and twice in its day.

    What was admitted to a round, or began to leave today, is not held against the day again.
    """

    def __init__(self, folder: Path) -> None:
        self.day, self.sent_today = _today(), 0
        self._begun = Counter[str]()  # of parcels, the bytes that left today
        self._due: dict[str, int] = {}  # of parcels on their way, the bytes that are yet to leave
        self._rounds: dict[Round, dict[str, int]] = {}
        self._replies: dict[str, Round] = {}
        for entry in audit.read(folder, self.day):
            self.sent_today += entry.bytes
            if entry.kind == PARCEL:
                self._begun[entry.sha256] += entry.bytes

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
        if others + size > most.max_bytes_per_round:
            return False
        admitted = held.get(object_) == size or self._begun[object_] > 0
        if not admitted and not self.today(size, most):
            return False
        held[object_] = size
        return True

    def today(self, size: int, most: Egress) -> bool:
        """Return whether so many bytes more may leave today, beside what is on its way."""
        self._turn()
        due = sum(self._due.values())
        return self.sent_today + due + size <= most.max_bytes_per_day

    def _turn(self) -> None:
        if self.day != _today():
            self.day, self.sent_today = _today(), 0
            self._begun.clear()

    @contextlib.contextmanager
    def on_its_way(self, parcel: Parcel) -> Iterator[None]:
        """Keep room in the day for a parcel that was admitted, until it has left or is given up."""
        self.due(parcel.sha256, parcel.bytes)
        try:
            yield
        finally:
            self._due.pop(parcel.sha256, None)

    def due(self, sha256: str, size: int) -> None:
        """Note how many bytes of a parcel on its way are yet to leave."""
        self._due[sha256] = size

    def count(self, size: int, sha256: str = "") -> None:
        """Count bytes that leave, of a parcel if it is one; fewer than none are bytes that did not leave after all."""
        self._turn()
        self.sent_today += size
        if sha256 in self._due:
            self._due[sha256] -= size
            self._begun[sha256] += size


def _forget(table: dict[str, Round] | dict[Round, dict[str, int]]) -> None:
    while len(table) > REMEMBERED:
        del table[next(iter(table))]  # type: ignore[arg-type]


def _today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")
