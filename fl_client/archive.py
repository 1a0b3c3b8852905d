"""Sites that lie pressed in memory until one is asked for.

A simulation holds a thousand and works for a few at a time; a silo's text is there again within a millisecond.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from sys import intern
from typing import Any, overload

from tasks.task import Example, Site, Turn

FAST = 1  # of zlib's levels; text falls to a quarter
ENCODING, ERRORS = "utf-8", "surrogatepass"  # half of a pair of letters, which JSON can name, too


class Archive(Sequence[Site]):
    """Sites in their order. Each is made anew whenever it is asked for; equal archives hold equal sites."""

    def __init__(self, sites: Iterable[Site]) -> None:
        self._held = tuple(map(_pressed, sites))

    def __len__(self) -> int:
        """Return how many sites there are."""
        return len(self._held)

    @overload
    def __getitem__(self, number: int) -> Site: ...

    @overload
    def __getitem__(self, number: slice) -> tuple[Site, ...]: ...

    def __getitem__(self, number: int | slice) -> Site | tuple[Site, ...]:
        """Return the site of this number, or those of a slice."""
        if isinstance(number, slice):
            return tuple(map(_opened, self._held[number]))
        return _opened(self._held[number])

    def __eq__(self, other: object) -> bool:
        """Return whether another archive holds the same."""
        return isinstance(other, Archive) and self._held == other._held

    def __hash__(self) -> int:
        """Return the hash of what is held."""
        return hash(self._held)


def _pressed(site: Site) -> bytes:
    written = json.dumps(site, ensure_ascii=False, separators=(",", ":"))
    return zlib.compress(written.encode(ENCODING, ERRORS), FAST)


def _opened(held: bytes) -> Site:
    name, *splits = json.loads(zlib.decompress(held).decode(ENCODING, ERRORS))
    return Site(name, *(tuple(map(_example, split)) for split in splits))


def _example(fields: list[Any]) -> Example:
    text, lang, prompt, source, doc, split, turns = fields
    said = tuple(Turn(*turn) for turn in turns)
    # Many examples have their language and their source in common.
    return Example(text, intern(lang), prompt, intern(source), doc, intern(split), said)
