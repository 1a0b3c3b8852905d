"""All that travels between hub and silo, and the codes of what can go wrong.

Arrays travel as one safetensors blob, in the message or as a parcel beside it, whose header is checked against what
the study expects before anything is used; all else is numbers and short names. Nothing is unpickled or imported.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fl_client import parcels, tensors
from fl_client.parcels import Offer, Parcel
from fl_client.refusals import REFUSALS
from strategies.adapter import Adapter

CODES = REFUSALS | {
    "text_missing": "the silo has no text for this task",
    "basis_differs": "the silo makes another seeded adapter than the study's",
    "pass_missing": "the silo no longer holds what it trained in this round, and cannot answer its second pass",
    "over_budget": "the silo's line may carry less than the study's least update; try codec='topk(0.05, least=0.01)'",
    "not_finite": "training diverged: the update holds NaN or infinity",
    "out_of_memory": "the silo ran out of memory; lower train.micro_batch or train.length, or set "
    "train.checkpointing=true or model.quantization='nf4'",
    "malformed": "the message could not be read",
    "lost": "what it was asked was lost on its way or in the silo time and again; the silo's logs say why",
    "internal": "the silo failed; its own log says why",
}
BLOB = "safetensors"
TOKENS = "tokens"  # beside a first adapter: the ids of its token rows, too many for a fact
TTL_S = 30 * 86400.0  # Flower forgets a message then; its own 12 hours end a slow silo's work
Content = RecordDict  # what a message holds


class Fault(Exception):
    """Something went wrong in a silo. Only the code leaves it; ``detail`` stays in the silo's log."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{CODES[code]}: {detail}" if detail else CODES[code])
        self.code = code


class Order(NamedTuple):
    """What a hub asks of a silo, beside arrays."""

    after: int = 0  # the rounds that went into the adapter sent; training it is round ``after + 1``
    scripts: str = ""  # ISO 15924 codes, commas between: whose token rows are trained
    start_sha256: str = ""  # of the seeded adapter that everyone starts from
    best: int = 0  # the round whose adapter is the best so far; a silo keeps its memory of it
    final: bool = False  # evaluate on the test split and choose what to serve
    sketch: int = 0  # how large what is sent in two passes is, where the strategy has them
    lost: int = 0  # the silo's updates from this round on did not count; 0: all that it sent did
    visit: int = 0  # which training of this silo's own it is, where silos keep no common step; 0: the round's
    steps: int = 0  # how many it takes, where not all of ``train.steps``

    @property
    def round(self) -> int:
        """The round that training this adapter belongs to, counted from 1."""
        return self.after + 1

    @property
    def turn(self) -> int:
        """The silo's own count of trainings: it fixes which text comes next, what is remembered, what is drawn."""
        return self.visit or self.round


class Reply(NamedTuple):
    """What a silo answers: arrays, numbers by name, short facts, or a code."""

    arrays: Adapter
    metrics: dict[str, float]
    facts: dict[str, Any]
    code: str
    bytes: int
    parcel: Parcel | None = None  # what holds the arrays, where they travel beside the message


def pack(arrays: Adapter) -> ArrayRecord:
    """Return a record that holds the arrays as one blob."""
    blob = save(arrays)
    return ArrayRecord({"blob": Array(dtype="uint8", shape=(len(blob),), stype=BLOB, data=blob)})


def unpack(record: ArrayRecord, read: Callable[[bytes], Adapter] = load) -> tuple[Adapter, int]:
    """Return the arrays of a record and the bytes they took; raises ``Fault`` on anything else."""
    try:
        item = record["blob"]
        if set(record) != {"blob"} or item.stype != BLOB:
            raise Fault("malformed", "not one safetensors blob")
        return read(item.data), len(item.data)
    except (KeyError, SafetensorError, ValueError, TypeError) as error:
        raise Fault("malformed", type(error).__name__) from error


def order(asked: Order, arrays: Adapter | None = None, offer: Offer | None = None) -> Content:
    """Return the content of a message to a silo; where there is an ``offer``, its parcel holds the arrays."""
    return addressed(asked, packed(arrays, offer))


def packed(arrays: Adapter | None = None, offer: Offer | None = None) -> Content:
    """Return what an order holds beside itself: arrays, or the offer of the parcel that holds them."""
    if offer:
        return RecordDict({"parcel": ConfigRecord({**offer.said()})})
    return RecordDict({"adapter": pack(arrays)}) if arrays else RecordDict()


def addressed(asked: Order, held: Content) -> Content:
    """Return the content of a message to a silo; several may share what is packed."""
    return RecordDict({"order": ConfigRecord(asked._asdict())} | dict(held))


def to(node: int, kind: str, content: Content, number: int = 0) -> Message:
    """Return a message to one silo; its group is the round, so that a silo's record of what left can name it."""
    return Message(content, dst_node_id=node, message_type=kind, ttl=TTL_S, group_id=str(number))


def round_of(content: Content, kind: str) -> int:
    """Return the round to which an order belongs: the turn it trains, or the last one that went into it."""
    asked = Order(**content.config_records["order"])  # type: ignore[arg-type]
    return asked.turn if kind in {"train", "train.second"} else asked.after


def size(content: Content) -> int:
    """Return the bytes that the arrays of a message take."""
    if beside := offer_of(content):
        return beside.parcel.bytes
    return sum(len(a.data) for record in content.array_records.values() for a in record.values())


def offer_of(content: Content) -> Offer | None:
    """Return the parcel that a message names, with its delta if any; raises ``Fault`` where the name cannot be read."""
    said = content.config_records.get("parcel")
    if said is None:
        return None
    try:
        return parcels.offered({key: str(text) for key, text in said.items()})
    except ValueError as error:
        raise Fault("malformed", str(error)) from error


def read_order(message: Message) -> tuple[Order, Adapter]:
    """Return what a hub asks, and the adapter it sent (empty if none)."""
    try:
        asked = Order(**message.content.config_records["order"])  # type: ignore[arg-type]
    except (KeyError, TypeError) as error:
        raise Fault("malformed", str(error)) from error
    for given, default in zip(asked, Order(), strict=True):
        if type(given) is not type(default) or (type(given) is int and given < 0):
            raise Fault("malformed", f"the order holds {given!r}")
    held = message.content.array_records.get("adapter")
    return asked, unpack(held)[0] if held is not None else {}


def answer(
    message: Message,
    metrics: dict[str, float],
    facts: dict[str, Any],
    arrays: Adapter | None = None,
    parcel: Parcel | None = None,
) -> Message:
    """Return a silo's reply; ``facts`` travel as JSON, arrays as a ``parcel`` where there is one."""
    numbers = MetricRecord({name: float(value) for name, value in metrics.items()})
    said = ConfigRecord({"json": json.dumps(facts, sort_keys=True)})
    content = RecordDict({"metrics": numbers, "facts": said})
    if parcel:
        content["parcel"] = ConfigRecord({"parcel": str(parcel)})
    elif arrays is not None:
        content["update"] = pack(arrays)
    return Message(content, reply_to=message)


def fault(message: Message, code: str) -> Message:
    """Return a reply that carries nothing but a code."""
    return Message(RecordDict({"fault": ConfigRecord({"code": code})}), reply_to=message)


def read_reply(message: Message) -> Reply:
    """Return what a silo answered. A reply that cannot be read counts as the code ``malformed``."""
    if message.has_error():
        return Reply({}, {}, {}, "internal", 0)
    records = message.content
    if "fault" in records.config_records:
        code = str(records.config_records["fault"].get("code"))
        return Reply({}, {}, {}, code if code in CODES else "malformed", 0)
    try:
        metrics = {k: float(v) for k, v in records.metric_records["metrics"].items()}  # type: ignore[arg-type]
        facts = json.loads(str(records.config_records["facts"]["json"]))
        held = records.array_records.get("update")
        arrays, size = unpack(held, tensors.over) if held is not None else ({}, 0)
        if not isinstance(facts, dict):
            raise Fault("malformed", "facts are no table")
        parcel = beside.parcel if (beside := offer_of(records)) else None
        return Reply(arrays, metrics, facts, "", parcel.bytes if parcel else size, parcel)
    except (Fault, KeyError, TypeError, ValueError, RecursionError):
        return Reply({}, {}, {}, "malformed", 0)
