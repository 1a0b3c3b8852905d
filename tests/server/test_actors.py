"""Lots that travel as one message of Flower's, and a crew behind a runtime that answers in this process."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from pathlib import Path
from uuid import uuid4

import flwr.simulation
import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.supercore.logger import warn_deprecated_feature
from hypothesis import given
from hypothesis import strategies as st

from fl_client.app import app as client
from fl_client.config import ConfigError, flat
from fl_server import record
from fl_server.app import app as server
from fl_server.simulation import actors, cluster, grid, lot
from fl_server.simulation.cluster import Room
from fl_server.simulation.pool import Died

ROOM = Room(2, 1, 0, 2)
NAMES = st.dictionaries(st.text("abc/", min_size=1, max_size=3), st.integers(), max_size=3)


@given(st.lists(NAMES, min_size=1, max_size=4), st.booleans())
def test_a_lot_comes_out_as_it_was_packed(contents, together):
    lot.identify()
    seats = [lot.seat(n + 1, 9, {"home": "x", "rounds": 2}) for n in range(len(contents))]
    records = [RecordDict({k: ConfigRecord({"n": n}) for k, n in c.items()}) for c in contents]
    asked = [
        (Message(content, dst_node_id=own.node_id, message_type="train", group_id="3"), own)
        for content, own in zip(records, seats, strict=True)
    ]
    found, jointly = lot.opened(lot.packed(asked, together))
    assert jointly == together
    for (message, context), (before, own) in zip(found, asked, strict=True):
        assert dict(message.content) == dict(before.content)
        assert (message.metadata.message_type, message.metadata.group_id) == ("train", "3")
        assert message.metadata.dst_node_id == context.node_id == own.node_id
        assert (context.node_config, context.run_config) == (own.node_config, own.run_config)


class Door:
    """Flower's grid as its ServerApp sees it: nodes come late, and ``answer`` replies to each message when pulled."""

    def __init__(self, nodes, answer):
        self._nodes, self._answer = nodes, answer
        self._looks, self._held = 0, {}
        self.used = set()

    def get_node_ids(self):
        self._looks += 1
        return range(1, self._nodes + 1) if self._looks > 2 else []

    def push_messages(self, messages):
        keys = [str(uuid4()) for _ in messages]
        for key, message in zip(keys, messages, strict=True):
            self.used.add(message.metadata.dst_node_id)
            message.metadata.__dict__["_message_id"] = key
            self._held[key] = message
        return keys

    def pull_messages(self, keys):
        key = sorted(keys)[-1]  # one at a time, and not in the order of asking
        return [self._answer(self._held.pop(key))]


@pytest.fixture
def crew(monkeypatch):
    """Return a maker of a crew over a pretended runtime, whose actors do what ``answer`` does."""
    made = []

    def make(answer):
        def runtime(app, visits, nodes, backend_config):
            assert backend_config == {"client_resources": {"num_cpus": 1, "num_gpus": 0}}
            context = Context(1, 0, {}, RecordDict(), {})
            app(Door(nodes, answer or (lambda m: visits(m, context))), context)

        lot.identify()
        monkeypatch.setattr(flwr.simulation, "run_simulation", runtime)
        made.append(actors.Actors(ROOM))
        return made[-1]

    yield make
    for each in made:
        each.close()


def asked(home, count=1):
    seats = [lot.seat(n, count, {"home": str(home)}) for n in range(1, count + 1)]
    kind = {"message_type": "query"}
    return [(Message(RecordDict(), dst_node_id=own.node_id, **kind), own) for own in seats]


def test_a_study_behind_flowers_runtime_has_the_bits_of_one_in_this_process(
    plain, small, crew, tmp_path
):
    _, here = plain
    study = small(tmp_path / "run")
    record.claim(Path(study.home), study, resume=False)
    grid.run(server, client, study.simulation.silos, flat(study), pool=crew(None))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["adapter_sha256"] == here["adapter_sha256"]


def test_an_actor_that_does_not_see_the_run_folder_works_for_nobody(crew, tmp_path):
    replies = crew(None).ask(asked(tmp_path / "elsewhere", 2), False)
    with pytest.raises(Died, match="elsewhere is not on every machine of the cluster"):
        replies.result(10)


DIED = "<class 'ray.exceptions.ActorDiedError'>:<'It died.\n\tpid: 7\nThe actor died.'>"
RAISED = "<class 'ray.exceptions.RayTaskError(X)'>:<'OutOfMemory\n\nException X occurred. Message: "
REASONS = {
    DIED: "a Ray actor ended over its work, perhaps for lack of memory (The actor died.)",
    f"{RAISED}index out\nof range\n'>": "a Ray actor could not do its work: index out",
    f"{RAISED}'>": "a Ray actor could not do its work: Exception X occurred. Message:",
    "": "a Ray actor could not do its work: Flower does not say why",
}


@pytest.mark.parametrize("reason", REASONS, ids=["died", "raised", "no words", "no reason"])
def test_work_that_an_actor_does_not_end_ends_the_study_in_plain_words(reason, crew, tmp_path):
    lost = crew(lambda m: Message(Error(0, reason), reply_to=m))
    with pytest.raises(Died) as caught:
        lost.ask(asked(tmp_path), False).result(10)
    assert str(caught.value) == f"{REASONS[reason]}. Continue with --resume"


def test_users_do_not_read_that_flower_will_drop_what_we_call_but_all_else(crew, tmp_path, caplog):
    flower = logging.getLogger("flwr")

    def answers(_):
        warn_deprecated_feature("The `run_simulation` function is deprecated")
        warn_deprecated_feature("Another one")
        raise RuntimeError("no more")

    flower.addHandler(caplog.handler)
    level = flower.level
    flower.setLevel(logging.WARNING)
    with pytest.raises(Died):
        crew(answers).ask(asked(tmp_path), False).result(10)
    flower.removeHandler(caplog.handler)
    flower.setLevel(level)
    assert "Another one" in caplog.text and "run_simulation" not in caplog.text


def test_a_runtime_that_ends_leaves_no_lot_without_an_answer(crew, tmp_path):
    def breaks(_):
        raise RuntimeError("no more")

    broken = crew(breaks)
    replies = [broken.ask(asked(tmp_path), False) for _ in range(3)]
    for each in replies:
        with pytest.raises(Died, match="Flower's runtime ended"):
            each.result(10)
    for _ in range(200):
        if not broken._thread.is_alive():
            break
        time.sleep(0.02)
    with pytest.raises(Died):
        broken.ask(asked(tmp_path), False).result(10)


def test_a_crew_that_is_broken_off_leaves_nothing_waiting(crew, tmp_path):
    held = threading.Event()
    stopped = crew(lambda m: held.wait(10) and Message(RecordDict(), reply_to=m))
    replies = [stopped.ask(asked(tmp_path), False) for _ in range(2)]
    stopped.kill()
    held.set()
    for each in replies:
        with pytest.raises(Died):
            each.result(10)


def test_ray_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(
        ConfigError, match=r"--engine ray needs Ray: pip install 'bhasha-fl\[ray\]'"
    ):
        cluster.join(2, 1)


def test_a_cluster_that_is_not_there_is_said_to_be_that(monkeypatch):
    with socket.socket() as held:  # bound and never listening
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(
            ConfigError, match=f"RAY_ADDRESS='{address}'; start one with `ray start"
        ):
            cluster.join(2, 1)
