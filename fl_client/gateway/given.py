"""The messages that a silo was given and has not answered: its workers may be at any of them."""

from __future__ import annotations

from fl_client.fleet import Pulled

KEPT = 64


class Given:
    """The messages in work, the newest last."""

    def __init__(self) -> None:
        self._open: dict[str, Pulled] = {}

    def note(self, pulled: Pulled) -> None:
        """Note a message that the SuperNode is given, maybe once more."""
        self._open.pop(pulled.message, None)
        self._open[pulled.message] = pulled
        if len(self._open) > KEPT:
            del self._open[next(iter(self._open))]

    def answered(self, message: str) -> None:
        """Forget a message that is answered, and those before it: a SuperNode works on one after the other."""
        if message in self._open:
            names = list(self._open)
            for name in names[: names.index(message) + 1]:
                del self._open[name]

    def current(self) -> Pulled | None:
        """Return the newest message; None where there is none, or where others are of another run.

        A worker may still be at what a SuperNode that is no more was given: whose update it brings is not known then.
        """
        if len({pulled.run for pulled in self._open.values()}) != 1:
            return None
        return list(self._open.values())[-1]
