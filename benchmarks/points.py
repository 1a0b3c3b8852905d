"""Where ``benchmarks.kills`` kills: functions of ours, by program, in the order in which a round comes to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, zip_longest
from typing import NamedTuple


class Fault(NamedTuple):
    """What is killed at a point, as ``trap`` names it: the process that comes there, or all of its hub or silo.

    Some points are met only after another one: that is armed with it. Where ``lost`` an update has been trained and is
    not durable yet, so that to train it again is right.
    """

    point: str
    side: str  # "hub" or "silo"
    whole: bool = False
    after: str = ""
    lost: bool = False
    skip: int = 0  # how often the point is passed before

    def __str__(self) -> str:
        """As the figures name it."""
        return f"{self.point}, all of the {self.side}" if self.whole else self.point


WITHIN_COMMIT = "fl_client.memory.complete before in fl_server.journal.commit"
NEW_RUN = "fl_server.rounds.one before"  # ends a Flower run, so that another is started
HUB = {
    "ServerApp": (
        "fl_server.run.join before",
        "fl_server.broadcast.contents before",
        "fl_server.freight.Freight.lay_out after",
        "fl_server.federation.Federation.push_messages before",
        "fl_server.federation.Federation.push_messages after",
        "fl_server.freight.Freight.collect before",
        "fl_server.replies.check after",
        "fl_server.merge.add after",
        "fl_server.merge.close after",
        "fl_server.record.append before",
        "fl_server.record.append after",
        WITHIN_COMMIT,
        "fl_server.journal._note before in fl_server.journal.commit",
        "fl_server.journal.commit after",
        "fl_server.freight.Freight.settle after",
    ),
    "gateway": (
        "fl_server.gateway.pulls.keep before",
        "fl_server.gateway.pulls.keep after",
        "fl_server.gateway.parcels.give before",
        "fl_server.gateway.calls.confirm before",
        "fl_server.gateway.calls.confirm after",
        "fl_server.gateway.parcels.held before",
        "fl_server.gateway.parcels.take before",
        "fl_client.memory.complete before in fl_server.gateway.parcels.kept",
        "fl_server.gateway.parcels.kept after",
        "fl_server.gateway.spool.announce after",
        "fl_server.gateway.replies.store after",
        "fl_server.gateway.replies.open_ after",
        "fl_server.gateway.delivery._objects after",
        "fl_server.gateway.spool.finish before",
        "fl_server.gateway.spool.finish after",
    ),
    "runner": (
        "fl_server.runner.step before",
        "fl_server.runner.start before",
        "fl_server.runner.flwr after",
    ),
}
SILO = {
    "gateway": (
        "fl_client.gateway.exchange._pull_messages after",
        "fl_client.gateway.download.receive before",
        "fl_client.gateway.download.complete before",
        "fl_client.gateway.exchange._give_object after",
        "fl_client.gateway.early.ahead before",
        "fl_client.gateway.upload.send before",
        "fl_client.gateway.upload._rest after",
        "fl_client.gateway.exchange._push_messages before",
        "fl_client.gateway.exchange._push_messages after",
        "fl_client.gateway.exchange._push_object after",
    ),
    "workers": (
        "fl_client.rank._received after",
        "fl_client.work.opened after",
        "fl_client.train._step after",
        "fl_client.checkpoint.keep before",
        "fl_client.checkpoint.keep after",
        "fl_client.training.ended before",
        "fl_client.memory.keep before",
        "fl_client.memory.keep after",
        "fl_client.parcels._write after",
        "fl_client.parcels.keep after",
        "fl_client.outbox.keep after",
        "fl_client.rank._answer before",
    ),
    "ClientApp": (
        "fl_client.app.job before",
        "fl_client.frames.send before",
        "fl_client.frames.call after",
    ),
    "forks": ("fl_client.forks._fork before",),
}
WHOLE = {  # all of it at once, as in a power cut; the machine's own writes are not lost
    "hub": (
        "fl_server.federation.Federation.push_messages after",
        "fl_server.gateway.delivery._hand_over before",
        "fl_server.journal.commit after",
    ),
    "silo": (
        "fl_client.train._step after",
        "fl_client.gateway.upload._rest after",
        "fl_client.rank._answer before",
    ),
}
AFTER = {
    "fl_server.run.join before": NEW_RUN,
    "fl_server.runner.start before": NEW_RUN,
    "fl_server.runner.flwr after": NEW_RUN,
}
LOST = {
    "fl_client.memory.keep before",
    "fl_client.memory.keep after",
    "fl_client.parcels._write after",
    "fl_client.parcels.keep after",
}
SKIP = {"fl_client.train._step after": 4}


def faults() -> Iterator[Fault]:
    """Yield all, program after program in turn, so that each lives for a while before it is killed again."""
    lanes = [*_lanes("hub", HUB), *_lanes("silo", SILO)]
    lanes += [
        [Fault(point, side, whole=True, skip=SKIP.get(point, 0)) for point in WHOLE[side]]
        for side in WHOLE
    ]
    return (one for one in chain.from_iterable(zip_longest(*lanes)) if one is not None)


def _lanes(side: str, programs: Mapping[str, tuple[str, ...]]) -> list[list[Fault]]:
    return [
        [
            Fault(p, side, after=AFTER.get(p, ""), lost=p in LOST, skip=SKIP.get(p, 0))
            for p in points
        ]
        for points in programs.values()
    ]


def functions() -> list[str]:
    """Return every function that a point names."""
    named = [
        point.split(" ")[0] for fault in faults() for point in (fault.point, fault.after) if point
    ]
    return sorted(set(named))
