"""How an adapter comes into a silo's inbox, by its delta if that helps: ``download.receive`` without a line."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from fl_client import memory, parcels, stock
from fl_client.gateway import download
from fl_client.gateway.link import AWAY
from fl_client.gateway.trip import CONTENT, Trip
from fl_client.parcels import INBOX, Offer
from fl_server.simulation.faults.gateway import Call

Asking = Generator[Call | float, Any, Any]
Say = Callable[[Call], Asking]  # asks until there is an answer, and returns it
Torn = Callable[[int], int]  # how much of so many bytes gets through


def fetched(folder: Path, run: int, offer: Offer, say: Say, torn: Torn) -> Asking:
    """Ask for a parcel until it is whole in the inbox, or the hub has it no more."""
    trip = Trip(run, offer.parcel, "tried", "", folder / INBOX)
    trip.folder.mkdir(exist_ok=True)
    if offer.delta and download.shorter(trip, offer.delta):
        short = trip._replace(parcel=offer.delta.parcel)
        while (yield from _rest(short, say, torn)) == AWAY:
            pass
        download.rebuild(trip, offer.delta)
    while not parcels.whole(trip.file, trip.parcel):
        if (yield from _rest(trip, say, torn)) == download.GONE:
            return
    stock.prune(trip.folder)


def _rest(trip: Trip, say: Say, torn: Torn) -> Asking:
    part = memory.part(trip.file)
    held = part.stat().st_size if part.exists() else 0
    if held < trip.parcel.bytes:
        named = {"run": trip.run, "parcel": trip.parcel, "at": held}
        piece = yield from say(Call(CONTENT, named))
        if piece == b"":
            return download.GONE
        with part.open("ab" if held else "wb", buffering=0) as stream:
            memory.write(stream, piece[: torn(len(piece))])
    return download.complete(part, trip)
