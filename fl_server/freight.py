"""The parcels of a hub's study: adapters laid out for silos to fetch, updates that silos brought."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from pathlib import Path

from fl_client import deltas, parcels, stock
from fl_client.parcels import Offer, Parcel
from fl_server import room
from fl_server.gateway import spool
from strategies.adapter import Adapter

LAID_OUT = "parcels"  # in the hub's folder


class Freight:
    """What lies on the hub's disk for the round that runs; what was laid out stays ``late`` rounds longer."""

    def __init__(self, hub: Path, late: int = 1) -> None:
        self._hub, self._adapters, self._spool = hub, hub / LAID_OUT, hub / "spool"
        self._laid: deque[set[Path]] = deque([set()], late + 1)  # by round, the newest last
        self._newest: dict[tuple[Hashable, int], Offer] = {}  # by kind of silo and length
        self._collected: set[Path] = set()
        self._sent: dict[str, deque[Parcel]] = {}  # by silo, what it keeps, the newest last

    def lay_out(self, arrays: Adapter, kind: Hashable = None) -> Offer | None:
        """Return the parcel of arrays, once it is on disk; None where there are none.

        Silos that are sent the same adapter, and one that is sent it again to evaluate, share a parcel. Where silos of
        this ``kind`` were sent another of its length before, a delta leads from that to it if that pays.
        """
        if not arrays:
            return None
        parcel = parcels.keep(self._adapters, arrays)
        offer = self._offer(parcel, kind)
        laid = [parcel] if offer.delta is None else [parcel, offer.delta.parcel]
        self._laid[-1].update(parcels.path(self._adapters, one) for one in laid)
        return offer

    def _offer(self, parcel: Parcel, kind: Hashable) -> Offer:
        if kind is None:
            return Offer(parcel)
        before = self._newest.get((kind, parcel.bytes))
        if before is not None and before.parcel == parcel:
            return before
        delta = deltas.between(self._adapters, before.parcel, parcel) if before else None
        found = self._newest[kind, parcel.bytes] = Offer(parcel, delta)
        return found

    def down(self, silo: str, offer: Offer) -> int:
        """Return the bytes of an offer that a silo fetches: a delta from what it keeps, and nothing of that itself.

        What silos kept when a hub ended is not known: they count as sent nothing before.
        """
        kept = self._sent.setdefault(silo, deque(maxlen=stock.KEPT))
        size = offer.parcel.bytes
        if offer.parcel in kept:
            kept.remove(offer.parcel)
            size = 0
        elif offer.delta is not None and offer.delta.start in kept:
            size = offer.delta.parcel.bytes
        kept.append(offer.parcel)
        return size

    def collect(self, silo: str, parcel: Parcel) -> Adapter:
        """Return the arrays of a parcel that a silo brought; raises ``ValueError``."""
        folder = spool.updates(self._spool, silo)
        file = parcels.path(folder, parcel)
        try:
            arrays = parcels.read(folder, parcel)
        except ValueError:
            file.unlink(missing_ok=True)  # else the silo would be told for ever that it is here
            raise
        self._collected.add(file)
        return arrays

    def roomy(self) -> bool:
        """Return whether enough of the hub's disk is free for another round."""
        return room.fits(self._hub)

    def settle(self) -> None:
        """Let go of the updates of a committed round, and of adapters from before it."""
        kept = set[Path]().union(*self._laid)
        old = [file for file in self._adapters.glob("*.safetensors*") if file not in kept]
        for file in [*self._collected, *old]:
            file.unlink(missing_ok=True)
        self._newest = {
            key: offer
            for key, offer in self._newest.items()
            if parcels.path(self._adapters, offer.parcel) in kept
        }
        self._laid.append(set())
        self._collected = set()
