"""A reply that does not leave though its run goes on: the hub is told the code in its place."""

from __future__ import annotations

import pytest

from fl_client import fleet, parcels
from fl_client.gateway import exchange, link, runs, withheld
from fl_client.gateway.link import Patience
from fl_client.refusals import REFUSALS

from .desk import RUN, kept, push, reply_naming

ROUND = "max_bytes_per_round = 1073741824"


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(exchange, "PATIENT", Patience(0.1, 0.3))
    monkeypatch.setattr(runs, "QUICK", Patience(0.1, 0.3))
    monkeypatch.setattr(link, "AGAIN_S", 0.1)


def test_only_what_says_nothing_of_the_next_reply_is_told_in_its_place():
    assert set(REFUSALS) > withheld.CODES == {"egress_too_large", "parcel_missing"}


def test_a_budget_that_is_too_small_for_an_update_refuses_this_one_and_not_the_run(
    hub, desk, clinic, write
):
    parcel, content = kept(clinic)
    clinic.allow(ROUND, "max_bytes_per_round = 100000")
    assert push(clinic, write(reply_naming(parcel), group="3"))["parcel"] == 403
    assert hub.codes() == ["egress_too_large"] and desk.held == b""
    clinic.allow("max_bytes_per_round = 100000", ROUND)
    assert set(push(clinic, write(reply_naming(parcel), group="4")).values()) == {200}
    assert desk.held == content
    assert not hub.told() and clinic.get_run().run.run_id == RUN


def test_an_update_that_is_gone_refuses_this_reply_and_not_the_run(hub, desk, clinic, write):
    parcel, content = kept(clinic)
    reply = write(reply_naming(parcel), group="3")
    parcels.path(clinic.folder / parcels.OUTBOX, parcel).unlink()
    assert push(clinic, reply)["parcel"] == 403
    assert hub.codes() == ["parcel_missing"]
    kept(clinic)
    assert set(push(clinic, write(reply_naming(parcel), group="4")).values()) == {200}
    assert desk.held == content and not hub.told()


def test_the_supernode_drops_its_reply_only_when_the_hub_has_the_code(
    hub, desk, clinic, write, hasty
):
    parcel, _ = kept(clinic)
    clinic.allow(ROUND, "max_bytes_per_round = 100000")
    reply, announced, refused = write(reply_naming(parcel)), hub.answers[fleet.PUSH_MESSAGES], []

    def first_of_each(body):
        again = fleet.reply(fleet.request(fleet.PUSH_MESSAGES, body)).message
        mine = reply.request["messages_list"][0].metadata.message_id
        if again != mine and again not in refused:
            refused.append(again)
            return 507, b""
        return announced(body)

    hub.answers[fleet.PUSH_MESSAGES] = first_of_each
    assert push(clinic, reply)["parcel"] == 503
    assert len(refused) == 1 and not hub.codes()
    assert push(clinic, reply)["parcel"] == 403
    assert hub.codes() == ["egress_too_large"]


@pytest.mark.parametrize("answer", [(507, False), (200, False)])
def test_where_the_hub_does_not_take_the_code_the_supernode_asks_again(
    hub, desk, clinic, write, hasty, answer
):
    parcel, _ = kept(clinic)
    clinic.allow(ROUND, "max_bytes_per_round = 100000")
    status, stored = answer
    body = fleet.answering(fleet.PUSH_OBJECT, stored=stored)
    hub.answers[fleet.PUSH_OBJECT] = lambda _: (status, body)
    assert push(clinic, write(reply_naming(parcel)))["parcel"] == 503


def test_where_the_run_is_over_the_supernode_drops_its_reply_too(hub, desk, clinic, write):
    parcel, _ = kept(clinic)
    clinic.allow(ROUND, "max_bytes_per_round = 100000")
    hub.answers[fleet.PUSH_OBJECT] = lambda _: (403, b"")
    assert push(clinic, write(reply_naming(parcel)))["parcel"] == 403
    assert not hub.told()


def test_a_reply_that_was_announced_before_a_restart_is_withheld_after_it(hub, desk, clinic, write):
    parcel, _ = kept(clinic)
    reply = write(reply_naming(parcel), group="3")
    clinic.allow(ROUND, "max_bytes_per_round = 100000")
    taken = clinic.call(fleet.PUSH_MESSAGES, **reply.request)
    clinic.stop()
    clinic.start()
    (named,) = [name for name, each in reply.objects.items() if str(parcel).encode() in each]
    said = {"session_id": taken.session_id, "object_id": named}
    back = clinic.call(fleet.PUSH_OBJECT, run_id=RUN, object_content=reply.objects[named], **said)
    assert back == 403
    assert hub.codes() == ["egress_too_large"] and not hub.told()
    announced = [e for e in clinic.record() if e.kind == fleet.PUSH_MESSAGES]
    assert [e.round for e in announced] == ["3", "3"]
