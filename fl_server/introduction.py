"""Who takes part: silos introduce themselves when a study begins, and when they come to one that runs.

What a silo says of itself becomes names of folders and weights of a mean, so it is read strictly.
"""

from __future__ import annotations

import logging
import re
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from fl_client import messages
from fl_client.config import ConfigError
from fl_client.messages import Order, Reply
from fl_server import silos
from fl_server.grid import Grid
from fl_server.silos import Silo
from strategies.scope import CODE
from strategies.weights.weight import MOST, Counts

LOG = logging.getLogger("bhasha_fl.hub")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
CARD_S, SOON_S = 600.0, 60.0  # how long a card is waited for as a study begins, and later
SELDOM = 31  # the most times in a row that a silent silo is not asked


class Silence(NamedTuple):
    """How often in a row a silo that is there said nothing, and how many times more it is not asked."""

    times: int
    skips: int


SILENT: WeakKeyDictionary[Grid, dict[int, Silence]] = WeakKeyDictionary()  # by the node, of a study


def introduce(grid: Grid) -> list[Silo]:
    """Return the silos that are there, by name; one that cannot take part, or says nothing, is left out until it can.

    Raises ``ConfigError`` where nobody is left, names clash or bases differ.
    """
    found, refused = _cards(grid, sorted(grid.get_node_ids()), CARD_S, [])
    if not found or refused and not grid.names():  # without a roster no silo ever comes later
        raise ConfigError(f"{'; '.join(sorted(refused)) or 'no silo answered':.1000}")
    _fit(found)
    return sorted(found, key=lambda silo: silo.name)


def came(grid: Grid, known: list[Silo]) -> list[Silo]:
    """Return the silos that came since these were known; one that cannot take part, or says nothing, is left out."""
    names, taken = grid.names(), {silo.name for silo in known}
    nodes = sorted(grid.newcomers({silo.node for silo in known}))
    return _cards(grid, [node for node in nodes if names.get(node) not in taken], SOON_S, known)[0]


def _cards(
    grid: Grid, nodes: list[int], seconds: float, known: list[Silo]
) -> tuple[list[Silo], list[str]]:
    """Ask nodes who they are; return those that can take part, beside those ``known``, and why others cannot."""
    found: list[Silo] = []
    refused: list[str] = []
    content, names = messages.order(Order()), grid.names()
    who = {
        node: f"silo {names[node]}" if node in names else f"the silo at node {node}"
        for node in nodes
    }
    asked = dict.fromkeys(_due(grid, nodes), content)
    silent = SILENT[grid]
    for node in asked:
        silent[node] = _more(silent.get(node))
    for node, reply in silos.exchange(grid, "query", asked, silos.all_within(seconds)):
        silent.pop(node, None)
        try:
            silo = _silo(names.get(node), who[node], node, reply)
            if known:  # where a study begins nobody was first, and all are looked at together
                _fit([*known, *found, silo])
        except ConfigError as error:
            LOG.warning("%s cannot take part: %s", who[node], error)
            refused.append(str(error))
        else:
            found.append(silo)
    if mute := ", ".join(who[node] for node in asked if node in silent):
        LOG.warning("no answer from %s; left out until there is one", mute)
    return found, refused


def _due(grid: Grid, nodes: list[int]) -> list[int]:
    """Return which of these nodes are asked who they are: one that is there and silent holds up everyone's round.

    So it is asked ever less often, until it starts anew or was away meanwhile.
    """
    known = SILENT.get(grid, {})
    anew = grid.restarted() if known else set()
    held = {node: known[node] for node in nodes if node in known and node not in anew}
    SILENT[grid] = {node: one._replace(skips=max(0, one.skips - 1)) for node, one in held.items()}
    return [node for node in nodes if node not in held or not held[node].skips]


def _more(before: Silence | None) -> Silence:
    """Return the silence of a node that was asked again and may not answer: after a first one it is asked as before."""
    times = before.times + 1 if before else 1
    return Silence(times, min(2 ** (times - 1) - 1, SELDOM))


def _fit(found: list[Silo]) -> None:
    names = [silo.name for silo in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"two silos are named {twice[0]}")
    alike: dict[str, list[str]] = {}
    for silo in found:
        alike.setdefault(silo.base, []).append(silo.name)
    if len(alike) > 1:
        held = "; ".join(sorted(", ".join(sorted(names)) for names in alike.values()))
        raise ConfigError(
            f"the silos hold different base models ({held:.300}); each must hold the study's"
        )


def _silo(known: str | None, who: str, node: int, reply: Reply) -> Silo:
    """Return the silo that a card tells of, ``known`` on the roster by a name or not; raises ``ConfigError``."""
    if reply.code:
        raise ConfigError(f"{who} could not join: {messages.CODES[reply.code]}")
    try:
        rows = {str(lang): _counts(row) for lang, row in reply.facts["languages"].items()}
        name, base = str(reply.facts["silo"]), str(reply.facts["base"])
        silo = Silo(node, name, rows, base, int(reply.facts.get("rank", 0)))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ConfigError(
            f"{who} introduced itself in a way that cannot be read: {error!r:.200}"
        ) from None
    # A language may name a group, and so a folder.
    if not NAME.fullmatch(silo.name) or not rows or not all(map(CODE.fullmatch, rows)):
        raise ConfigError(
            f"{who} introduced itself as {silo.name!r:.100} with {str(rows):.200}; it cannot take part"
        )
    if known is not None and silo.name != known:
        raise ConfigError(f"{who} introduced itself as {silo.name!r}; it cannot take part")
    return silo


def _counts(row: Any) -> Counts:
    """Return what a silo has of a language; raises ``ValueError`` where that is no count."""
    counts = Counts(*map(int, row))
    if not 0 <= min(counts) <= max(counts) < MOST:
        raise ValueError(f"{row} are no counts of text")
    return counts
