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
    """Return the silos that are there, by name; raises ``ConfigError`` where names clash or bases differ."""
    found: list[Silo] = []
    content = messages.order(Order())
    asked = {node: content for node in sorted(grid.get_node_ids())}
    for node, reply in silos.exchange(grid, "query", asked, silos.all_within(CARD_S)):
        found.append(_silo(grid, node, reply))
    if not found:
        raise ConfigError("no silo answered")
    _fit(found)
    return sorted(found, key=lambda silo: silo.name)


def came(grid: Grid, known: list[Silo]) -> list[Silo]:
    """Return the silos that came since these were known; one that cannot take part, or says nothing, is left out."""
    found: list[Silo] = []
    content = messages.order(Order())
    names, taken = grid.names(), {silo.name for silo in known}
    nodes = sorted(grid.newcomers({silo.node for silo in known}))
    asked = {node: content for node in nodes if names.get(node) not in taken}
    for node, reply in silos.exchange(grid, "query", asked, silos.all_within(SOON_S)):
        try:
            silo = _silo(grid, node, reply)
            _fit([*known, *found, silo])
        except ConfigError as error:
            LOG.warning("a silo that came later cannot take part: %s", error)
        else:
            found.append(silo)
    return found


def _fit(found: list[Silo]) -> None:
    names = [silo.name for silo in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"two silos are named {twice[0]}")
    if len({silo.base for silo in found}) > 1:
        raise ConfigError("the silos hold different base models; each must hold the study's")


def _silo(grid: Grid, node: int, reply: Reply) -> Silo:
    known = grid.names().get(node)
    if reply.code:
        who = f"silo {known}" if known else "a silo"
        raise ConfigError(f"{who} could not join: {messages.CODES[reply.code]}")
    try:
        rows = {str(lang): _counts(row) for lang, row in reply.facts["languages"].items()}
        name, base = str(reply.facts["silo"]), str(reply.facts["base"])
        silo = Silo(node, name, rows, base, int(reply.facts.get("rank", 0)))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ConfigError(
            f"a silo introduced itself in a way that cannot be read: {error!r:.200}"
        ) from None
    # A language may name a group, and so a folder.
    if not NAME.fullmatch(silo.name) or not rows or not all(map(CODE.fullmatch, rows)):
        raise ConfigError(
            f"a silo introduced itself as {silo.name!r:.100} with {str(rows):.200}; it cannot take part"
        )
    if known is not None and silo.name != known:
        raise ConfigError(f"silo {known} introduced itself as {silo.name!r}; it cannot take part")
    return silo


def _counts(row: Any) -> Counts:
    """Return what a silo has of a language; raises ``ValueError`` where that is no count."""
    counts = Counts(*map(int, row))
    if not 0 <= min(counts) <= max(counts) < MOST:
        raise ValueError(f"{row} are no counts of text")
    return counts
