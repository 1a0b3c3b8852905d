"""The silo's own paths, beside Flower's: enrolling, what it says of itself, the signed study, a refusal, two measures.

Only numbers and short names come in; all else in a greeting is left out.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, ValidationError

from fl_client.config import Section
from fl_client.hours import Written
from fl_client.kit import Language
from fl_client.refusals import REFUSALS
from fl_server import roster
from fl_server.gateway import pulls, seen, studies
from fl_server.gateway.gate import Call, Gate, Route
from fl_server.gateway.relay import Answer
from fl_server.roster import Rejected
from strategies.weights.weight import MOST

LOG = logging.getLogger("bhasha_fl.gateway")
JSON, PEM = "application/json", "application/x-pem-file"
SMALL, PROBE = 4 << 10, 1 << 20
Count = Annotated[int, Field(ge=0, lt=MOST)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,39}$")]


def _known(code: str) -> str:
    if code not in REFUSALS:
        raise ValueError("no code of a refusal")
    return code


class Volume(Section):
    """How much text of a language a silo has."""

    rows: Count
    bytes: Count


class Hello(Section):
    """What a silo says of itself; it is shown, and used to plan. Nothing rests on it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    version: Word | None = None
    flower: Word | None = None
    languages: Annotated[dict[Language, Volume], Field(max_length=64)] = {}
    gpus: Count = 0
    gpu_memory_bytes: Count = 0
    cpus: Count = 0
    memory_bytes: Count = 0
    processes: Count = 0
    uplink_bytes_s: Count = 0
    round_bytes: Count = 0
    update_hours: Written = ""


class Refusal(Section):
    """A silo's own gateway refused a run."""

    run: Annotated[int, Field(ge=0, lt=1 << 64)]
    code: Annotated[str, AfterValidator(_known)]


def _json(said: dict[str, Any], status: int = 200) -> Answer:
    return Answer(status, json.dumps(said).encode(), JSON)


async def enrol(gate: Gate, call: Call) -> Answer:
    """Take a request for a certificate, once a token: 202, or 403 with the code of the refusal."""
    token = call.headers.get("bhasha-token", "")
    try:
        entry = await asyncio.to_thread(roster.enrol, gate.folder, token, call.body)
    except Rejected as no:
        return _json({"code": no.code}, 403)
    LOG.info("%s asks for a certificate", entry.name)
    return Answer(202)


async def certificate(gate: Gate, call: Call) -> Answer:
    """Answer with the certificate that a token's silo asked for, 202 as long as it is not approved."""
    token = call.headers.get("bhasha-token", "")
    try:
        entry = await asyncio.to_thread(roster.collect, gate.folder, token)
    except Rejected as no:
        return _json({"code": no.code}, 403)
    if entry.state != "approved":
        return Answer(202)
    return Answer(200, entry.certificate.encode(), PEM)


async def study(gate: Gate, call: Call) -> Answer:
    """Answer with the signed study of a run, 404 where there is none."""
    envelope = await asyncio.to_thread(studies.find, gate.folder, call.query.get("run", ""))
    return Answer(200, envelope, JSON) if envelope else Answer(404)


async def refuse(gate: Gate, call: Call) -> Answer:
    """Note that the silo's own gateway refused a run; its message is not handed out again, and the hub is told."""
    try:
        no = Refusal.model_validate_json(call.body)
    except ValidationError:
        return Answer(400)
    pulls.drop(gate.pulls, call.silo, no.run)
    seen.refuse(gate.seen, call.silo, no.run, no.code)
    gate.ready.ring()
    LOG.warning("%s refuses run %d: %s", call.silo, no.run, no.code)
    return Answer(200)


async def hello(gate: Gate, call: Call) -> Answer:
    """Note what the silo says of itself; it is told what time it is here."""
    try:
        said = Hello.model_validate_json(call.body)
    except ValidationError:
        return Answer(400)
    seen.note(gate.seen, call.silo, hello=said.model_dump(exclude_defaults=True))
    return await clock(gate, call)


async def probe(gate: Gate, call: Call) -> Answer:
    """Say how many bytes came; the silo times it."""
    return _json({"bytes": len(call.body)})


async def clock(gate: Gate, call: Call) -> Answer:
    """Say what time it is here, in Unix seconds."""
    return _json({"time": time.time()})


ROUTES = {
    ("POST", "/v1/silo/enrol"): Route(enrol, SMALL, stranger=True),
    ("GET", "/v1/silo/certificate"): Route(certificate, stranger=True),
    ("GET", "/v1/silo/study"): Route(study),
    ("POST", "/v1/silo/refuse"): Route(refuse, SMALL),
    ("POST", "/v1/silo/hello"): Route(hello, 4 * SMALL),
    ("POST", "/v1/silo/probe"): Route(probe, PROBE),
    ("GET", "/v1/silo/time"): Route(clock),
}
