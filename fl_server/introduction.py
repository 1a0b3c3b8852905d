"""Who takes part: silos introduce themselves when a study begins, and when they come to one that runs.

What a silo says of itself becomes names of folders and weights of a mean, so it is read strictly.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from fl_client import messages
from fl_client.config import ConfigError
from fl_client.messages import Order, Reply
from fl_server import silos
from fl_server.grid import Grid
from fl_server.silos import Silo
from strategies.scope import CODE
from strategies.weights.weight import Counts

LOG = logging.getLogger("bhasha_fl.hub")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MOST = 1 << 50  # of anything that is counted
CARD_S, SOON_S = 600.0, 60.0  # how long a card is waited for as a study begins, and later


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
    asked = dict.fromkeys(nodes, content)
    for node, reply in silos.exchange(grid, "query", asked, silos.all_within(seconds)):
        who = f"silo {names[node]}" if node in names else f"the silo at node {node}"
        try:
            silo = _silo(names.get(node), who, node, reply)
            if known:  # where a study begins nobody was first, and all are looked at together
                _fit([*known, *found, silo])
        except ConfigError as error:
            LOG.warning("%s cannot take part: %s", who, error)
            refused.append(str(error))
        else:
            found.append(silo)
    return found, refused


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
