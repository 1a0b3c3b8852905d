"""What a silo takes part in: only what its hub signed, only what its own policy allows, only the bundle it has."""

from __future__ import annotations

import io
import random
import zipfile

import pytest

from fl_client import bundle, fleet, signed
from fl_client.config import Study, from_flat
from fl_client.gateway import link, runs
from fl_client.gateway.link import Patience
from fl_client.silo import Folder

RUN = 7
SMALL = Study(name="small", rounds=2)
CONFIG = signed.carried(SMALL)


def signed_study(sha256=None):
    return signed.Signed(SMALL, "Demo", sha256 or bundle.sha256(), ("clinic-a",), "")


def test_a_signed_study_within_the_policy_passes_with_its_bundle(hub, clinic):
    assert clinic.get_run().run.fab_hash == bundle.sha256()
    assert clinic.get_fab().fab.content == bundle.fab()
    assert not hub.told()
    assert hub.paths().count(f"/v1/silo/study?run={RUN}") == 1


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"federation": "Other"}, "federation_differs"),
        ({"silos": ["clinic-b"]}, "not_invited"),
        ({"silos": []}, "not_invited"),
        ({"bundle_sha256": "0" * 64}, "bundle_differs"),
        ({"key": signed.new_key()}, "signature_wrong"),
        ({"study": from_flat({"model.rank": 65})}, "rank_too_high"),
        ({"study": from_flat({"rounds": 1001})}, "rounds_too_many"),
        ({"study": from_flat({"train.steps": 10_001})}, "steps_too_many"),
        ({"study": from_flat({"train.batch_size": 1025})}, "batch_too_large"),
        ({"study": from_flat({"train.length": 32_769})}, "length_too_long"),
        ({"study": from_flat({"task": "no_such_task()"})}, "task_not_allowed"),
        ({"study": from_flat({"task": "causal_lm() | translate()"})}, "task_not_allowed"),
        ({"study": from_flat({"task": "rubbish("})}, "task_not_allowed"),
    ],
)  # fmt: skip
def test_a_study_that_is_not_allowed_is_refused_and_the_hub_is_told_the_code(
    hub, clinic, changes, code
):
    hub.sign(**changes)
    assert clinic.get_run() == 403
    assert clinic.get_fab() == 403
    assert hub.told() == [(RUN, code)] * 2
    assert not {fleet.GET_RUN, fleet.GET_FAB} & set(hub.paths())


def test_a_run_without_a_signed_study_is_refused_until_there_is_one(hub, clinic):
    del hub.studies[RUN]
    assert clinic.get_run() == 403
    assert hub.told() == [(RUN, "study_missing")]
    hub.sign()
    assert clinic.get_run().run.run_id == RUN


@pytest.mark.parametrize("at", [0, 1, 40, -30, -1])
def test_an_envelope_that_is_damaged_is_refused(hub, clinic, at):
    held = bytearray(hub.studies[RUN])
    held[at] ^= 1
    hub.studies[RUN] = bytes(held)
    assert clinic.get_run() == 403
    assert hub.told() == [(RUN, "signature_wrong")]


def test_a_base_that_is_not_on_the_policys_list_is_refused(hub, clinic):
    clinic.allow("b" * 64, "c" * 64)
    assert clinic.get_run() == 403
    assert hub.told() == [(RUN, "base_not_allowed")]


@pytest.mark.parametrize(
    "config",
    [
        CONFIG | {"rounds": 3},
        CONFIG | {"train.lr": 0.5},
        CONFIG | {"home": "/"},
        CONFIG | {"seed": 7.0},
        CONFIG | {"alone.enabled": 1},
        CONFIG | {"more": "text"},
        {key: value for key, value in CONFIG.items() if key != "codec"},
        {},
    ],
)
def test_a_run_whose_configuration_is_not_the_signed_one_is_refused(hub, clinic, config):
    hub.tells_run(config)
    assert clinic.get_run() == 403
    assert hub.told() == [(RUN, "configuration_differs")]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"run_id": 8}, "configuration_differs"),
        ({"primary_task_type": "flwr-agentapp"}, "configuration_differs"),
        ({"fab_hash": "0" * 64}, "bundle_differs"),
        ({"fab_id": "someone/else"}, "bundle_differs"),
        ({"fab_id": "../../x/y"}, "bundle_differs"),
        ({"fab_version": "9.9.9"}, "bundle_differs"),
        ({"fab_version": "../.."}, "bundle_differs"),
    ],
)
def test_a_run_that_names_another_app_is_refused(hub, clinic, changes, code):
    hub.tells_run(CONFIG, **changes)
    assert clinic.get_run() == 403
    assert hub.told() == [(RUN, code)]


def test_a_run_that_cannot_be_read_is_refused(hub, clinic):
    hub.answers[fleet.GET_RUN] = lambda _: (200, b"\xff\xff")
    assert clinic.get_run() == 403
    assert hub.told() == [(RUN, "configuration_differs")]


def test_a_bundle_with_one_changed_byte_is_refused_and_the_hub_is_told(hub, clinic):
    held = bytearray(bundle.fab())
    held[len(held) // 2] ^= 1
    hub.tells_bundle(bundle.sha256(), bytes(held))
    assert clinic.get_fab() == 403
    assert hub.told() == [(RUN, "bundle_differs")]


def test_a_bundle_with_code_in_it_is_refused_whatever_hash_it_states(hub, clinic):
    held = io.BytesIO(bundle.fab())
    with zipfile.ZipFile(held, "a") as archive:
        archive.writestr("fl_client/app.py", "raise SystemExit")
    for stated in (bundle.sha256(), __import__("hashlib").sha256(held.getvalue()).hexdigest()):
        hub.tells_bundle(stated, held.getvalue())
        assert clinic.get_fab() == 403
    assert hub.told() == [(RUN, "bundle_differs")] * 2


def test_none_of_a_thousand_altered_answers_with_a_bundle_passes():
    whole = fleet.answering(
        fleet.GET_FAB, fab={"hash_str": bundle.sha256(), "content": bundle.fab()}
    )
    assert runs.check_bundle(fleet.response(fleet.GET_FAB, whole), signed_study()) == ""
    chance, passed = random.Random(3), 0
    for _ in range(1000):
        held = bytearray(whole)
        held[chance.randrange(len(held))] ^= chance.randrange(1, 256)
        try:
            code = runs.check_bundle(fleet.response(fleet.GET_FAB, bytes(held)), signed_study())
        except ValueError:
            continue
        passed += code == ""
    assert passed == 0


def test_a_refusal_that_the_hub_has_not_heard_is_not_told_to_the_supernode(
    hub, clinic, monkeypatch
):
    monkeypatch.setattr(runs, "QUICK", Patience(0.1, 0.3))
    monkeypatch.setattr(link, "AGAIN_S", 0.1)
    hub.tells_run({})
    hub.answers["/v1/silo/refuse"] = lambda _: (503, b"")
    assert clinic.get_run() == 503
    hub.answers.pop("/v1/silo/refuse")
    assert clinic.get_run() == 403


def test_a_message_of_a_refused_run_is_not_handed_over(hub, clinic):
    said = {"run_id": 8, "message_id": "a" * 64, "message_type": "train", "ttl": 60.0}
    body = fleet.answering(
        fleet.PULL_MESSAGES,
        messages_list=[{"metadata": said}],
        message_object_trees=[{"object_id": "a" * 64}],
    )
    hub.answers[fleet.PULL_MESSAGES] = lambda _: (200, body)
    assert clinic.call(fleet.PULL_MESSAGES) == 403
    assert hub.told() == [(8, "study_missing")]
    hub.sign(run=8)
    assert clinic.call(fleet.PULL_MESSAGES).messages_list[0].metadata.run_id == 8


def test_a_pull_that_cannot_be_read_is_asked_again(hub, clinic):
    hub.answers[fleet.PULL_MESSAGES] = lambda _: (200, b"\xff\xff")
    assert clinic.call(fleet.PULL_MESSAGES) == 503


def test_a_policy_that_is_changed_holds_from_the_next_message_on(hub, clinic):
    assert clinic.get_run().run.run_id == RUN
    clinic.allow("max_rank = 64", "max_rank = 8")
    assert clinic.get_run() == 403
    assert hub.told() == [(RUN, "rank_too_high")]
    clinic.allow("max_rank = 8", "max_rank = 16")
    assert clinic.get_run().run.run_id == RUN


def test_where_the_policy_cannot_be_read_nothing_is_answered(hub, clinic):
    clinic.allow("max_rank = 64", "max_rank = much")
    assert clinic.get_run() == 503
    Folder(clinic.folder).policy.unlink()
    assert clinic.get_run() == 503
    assert not hub.told()
    assert fleet.GET_RUN not in hub.paths()


def test_a_restart_asks_for_the_study_again(hub, clinic):
    clinic.get_run()
    clinic.stop()
    clinic.start()
    assert clinic.get_fab().fab.content == bundle.fab()
    assert hub.paths().count(f"/v1/silo/study?run={RUN}") == 2
