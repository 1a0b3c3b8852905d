"""Who takes part in a rehearsal: silos by name, each with a profile.

A profiles file says under ``[silos]`` how many silos have each profile, or their names. Profiles of its own stand
under ``[profiles.NAME]``, ``like`` a bundled one or one above.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

from fl_client.config import ConfigError
from fl_server import introduction
from fl_server.simulation.profiles import Profile, bundled, checked, toml


class Seat(NamedTuple):
    """A silo of a rehearsal, and the name of its profile."""

    silo: str
    kind: str
    profile: Profile


def read(given: str, count: int | None = None) -> list[Seat]:
    """Return the silos of a profiles file, or of names of bundled profiles with commas between.

    With a ``count`` so many are dealt the profiles in turn. Raises ``ConfigError``.
    """
    path = Path(given)
    if path.suffix == ".toml" or path.is_file():
        seats = _file(path)
    else:
        known = bundled()
        seats = _dealt([_named(name.strip(), known) for name in given.split(",")])
    if count is not None:
        if count < 1:
            raise ConfigError(f"--silos {count} leaves nobody; give 1 or more")
        seats = _dealt(list(islice(cycle([(s.kind, s.profile) for s in seats]), count)))
    return seats


def _file(path: Path) -> list[Seat]:
    tables = toml(path)
    silos_, own = tables.pop("silos", None), tables.pop("profiles", {})
    if tables or not isinstance(silos_, dict) or not silos_ or not isinstance(own, dict):
        raise ConfigError(
            f"{path} should have a table [silos], such as clinic-dsl = 3 or clinic-dsl = ['hill', 'lake'], "
            "and a table [profiles.NAME] for each profile of its own; nothing else"
        )
    try:
        known = bundled()
        for name, values in own.items():
            known[name] = _like(name, values, known)
        found: list[Seat] = []
        for kind, who in silos_.items():
            _, profile = _named(kind, known)
            found += [Seat(silo, kind, profile) for silo in _names(kind, who)]
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    twice = [seat.silo for seat in found if [s.silo for s in found].count(seat.silo) > 1]
    if twice:
        raise ConfigError(f"{path}: two silos are named {twice[0]}")
    return found


def _names(kind: str, who: Any) -> list[str]:
    if type(who) is int and who >= 1:
        return [f"{kind}-{number}" for number in range(1, who + 1)]
    named = isinstance(who, list) and who
    if not named or not all(isinstance(n, str) and introduction.NAME.fullmatch(n) for n in who):
        raise ConfigError(f"{kind} = {who!r} should be how many silos, or a list of their names")
    return list(who)


def _like(name: str, values: Any, known: Mapping[str, Profile]) -> Profile:
    if not isinstance(values, dict):
        raise ConfigError(f"profiles.{name} should be a table")
    like = values.get("like")
    before = _named(str(like), known)[1].model_dump(exclude_unset=True) if like else {}
    return checked(name, before | {k: v for k, v in values.items() if k != "like"})


def _named(name: str, known: Mapping[str, Profile]) -> tuple[str, Profile]:
    if name not in known:
        raise ConfigError(f"there is no profile {name!r}; known: {', '.join(known)}")
    return name, known[name]


def _dealt(kinds: list[tuple[str, Profile]]) -> list[Seat]:
    held = [kind for kind, _ in kinds]
    return [
        Seat(f"{kind}-{held[: number + 1].count(kind)}", kind, profile)
        for number, (kind, profile) in enumerate(kinds)
    ]
