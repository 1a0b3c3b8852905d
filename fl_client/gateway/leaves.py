"""What leaves of a reply: its announcement and each of its objects, as far as the silo's policy lets them out.

All that is refused raises ``Refused``.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Any

from fl_client.gateway import announced, contents, parcels, runs, trip
from fl_client.gateway.announced import Announced
from fl_client.gateway.objects import TooLong
from fl_client.gateway.runs import Refused
from fl_client.gateway.way import Way
from fl_client.parcels import Offer, Parcel
from fl_client.policy import Egress

LOG = logging.getLogger("bhasha_fl.gateway")
Renamed = dict[str, str]  # new names of objects by their old ones


def reply(way: Way, asked: Any, run: int) -> tuple[Announced, Renamed]:
    """Return what a push-messages request announces, with nothing else in it; ``asked`` is changed for that."""
    most, said = runs.rules(way.book).egress, asked.messages_list[0]
    if said.metadata.message_type not in most.kinds:
        raise Refused(run, "kind_not_allowed")
    asked.DiscardUnknownFields()
    renamed = contents.quiet_reply(asked)
    # Content belongs into objects, which are looked at.
    if said.content.ByteSize() or not contents.plain(said.metadata, most):
        raise Refused(run, "content_not_allowed")
    try:
        return announced.read(asked), renamed
    except ValueError:
        raise Refused(run, "content_not_allowed") from None


def find(way: Way, asked: Any) -> Announced:
    """Return the reply to which an object belongs."""
    found = way.announced.find(asked.session_id)
    if found is None or found.reply.run != asked.run_id:
        raise Refused(asked.run_id, "content_not_allowed")
    way.meter.announce(asked.session_id, asked.run_id, found.reply.round)
    return found


async def object_(way: Way, asked: Any, said: Announced) -> bytes:
    """Return the push-object request for an object, when the parcel that it names, if it names one, is at the hub."""
    most, run = runs.rules(way.book).egress, asked.run_id
    content, offer = _checked(asked, said, most, way.book.settings.name)
    asked.DiscardUnknownFields()
    asked.object_content, asked.object_id = content, hashlib.sha256(content).hexdigest()
    _admit(way, asked, Parcel(asked.object_id, len(content)), most)
    if offer:
        _admit(way, asked, offer.parcel, most)
        update = trip.out(way.book, run, offer.parcel, said.reply.round)
        await parcels.bring(way.trips, way.line, update)
    body: bytes = asked.SerializeToString(deterministic=True)
    return body


def _checked(asked: Any, said: Announced, most: Egress, silo: str) -> tuple[bytes, Offer | None]:
    """Return an object without the words of an error, and the parcel that it names."""
    try:
        content = contents.quiet(asked.object_content)
        place = said.places.get(hashlib.sha256(content).hexdigest())
        if place is not None and contents.fits(content, most, place, silo):
            return content, contents.offer(content)
    except TooLong as error:
        LOG.error("an object of a reply does not leave: %s", error)
        raise Refused(asked.run_id, "content_too_long") from None
    except ValueError as error:
        LOG.error("an object of a reply does not leave: %s", error)
    raise Refused(asked.run_id, "content_not_allowed")


def _admit(way: Way, asked: Any, what: Parcel, most: Egress) -> None:
    if not way.meter.fits(asked.session_id, asked.run_id, what.sha256, what.bytes, most):
        raise Refused(asked.run_id, "egress_too_large")
