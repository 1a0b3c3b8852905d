"""What one rank does with what comes to its socket, without others; several real ones are in test_group."""

from __future__ import annotations

import shutil
import socket
import struct
import threading

import numpy as np
import pytest

from fl_client import bases, frames, parcels, posted, rank, ranks, silo, sockets, work, workers
from fl_client.checkpoint import Left
from fl_client.config import ConfigError, Study, from_flat
from fl_client.messages import Fault, Order
from fl_client.site import Place
from fl_client.workers import Job, Result

KINDS = ("count", "initial", "gradient", "fit", "second", "rail", "score")


def job(**changes) -> Job:
    study = from_flat({key.replace("__", "."): value for key, value in changes.items()})
    return Job(study, Place(silo="/as/the/client/calls/it"), Order(), {})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parallel", ["ddp()", "local_sgd()", "fsdp()", "no such thing("])
def test_ranks_share_training_and_all_that_needs_a_sharded_base(kind, parallel, monkeypatch):
    asked = job(train__parallel=parallel)
    assert not rank.together(kind, asked)
    monkeypatch.setattr(ranks, "world", lambda: 2)
    shared = {"gradient", "fit", "rail"} | ({"initial", "score"} if parallel == "fsdp()" else set())
    assert rank.together(kind, asked) == (kind in shared)


class Ended(Exception):
    """The process ended."""


@pytest.fixture
def serving(tmp_path, monkeypatch):
    """Return a function that serves jobs by a given work in a thread, and what its process ended with."""
    ended, done = [], []

    def start(work):
        def end(code):
            raise Ended(code)

        monkeypatch.setattr(rank, "_exit", end)
        monkeypatch.setattr(workers, "here", lambda kind, asked: done.append(asked) or work(asked))

        def run():
            try:
                rank.serve(tmp_path)
            except (Ended, Left) as error:
                ended.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    yield start, tmp_path, ended, done
    frames.socket(tmp_path).unlink()
    frames.socket(tmp_path).parent.rmdir()


@pytest.fixture
def based(tmp_path, monkeypatch):
    """Return a base in a folder of its own, pinned by a silo that works with it, and the work that was done."""
    base = shutil.copytree(bases.BUILTIN["builtin:tiny"], tmp_path / "base")
    known = {"name": "a", "federation": "b", "address": "hub.example.org:1", "data": "text"}
    pinned = bases.sha256(str(base))
    silo.create(tmp_path, silo.Settings(**known, base=str(base), base_sha256=pinned))
    bases.sha256.cache_clear()
    done = []
    does = dict.fromkeys(KINDS, lambda asked: done.append(asked) or Result({}, {"loss": 1.0}, {}))
    monkeypatch.setattr(work, "KINDS", does)
    monkeypatch.setattr(work, "opened", lambda asked: asked)
    yield base, done
    bases.sha256.cache_clear()
    frames.socket(tmp_path).unlink()
    frames.socket(tmp_path).parent.rmdir()


def served(folder):
    """Serve a silo's folder, and return what each kind of order is answered."""
    threading.Thread(target=rank.serve, args=(folder,), daemon=True).start()
    answers = {}
    for kind in KINDS:
        try:
            answers[kind] = frames.call(frames.socket(folder), kind, job()).metrics
        except Fault as fault:
            answers[kind] = fault.code
    return answers


def test_the_base_is_hashed_once_and_every_order_is_done_where_it_is_the_pinned_one(
    tmp_path, based
):
    _, done = based
    assert served(tmp_path) == dict.fromkeys(KINDS, {"loss": 1.0})
    assert len(done) == len(KINDS)
    assert bases.sha256.cache_info().misses == 1


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "chat_template.jinja"])
def test_where_another_base_lies_in_its_place_every_order_is_refused_and_nothing_is_trained(
    tmp_path, based, name, caplog
):
    base, done = based
    with (base / name).open("ab") as stream:
        stream.write(b"\n")
    assert bases.sha256(str(base)) != silo.read(tmp_path).base_sha256
    assert served(tmp_path) == dict.fromkeys(KINDS, "base_not_allowed")
    assert not done
    said = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert len(said) == len(KINDS)
    assert said[0].startswith(f"nothing is trained: {base} is not the base that silo.toml pins")
    assert said[0].endswith("put it back, then stop and start this silo")


def test_a_base_that_cannot_be_read_is_said_and_the_group_goes_on(tmp_path, based):
    base, done = based
    whole = (base / "config.json").read_bytes()
    (base / "config.json").unlink()
    threading.Thread(target=rank.serve, args=(tmp_path,), daemon=True).start()
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        frames.call(frames.socket(tmp_path), "fit", job())
    (base / "config.json").write_bytes(whole)
    assert frames.call(frames.socket(tmp_path), "fit", job()).metrics == {"loss": 1.0}
    assert len(done) == 1


def broken(asked):
    raise KeyError("a bug")


def test_jobs_are_done_in_the_folder_that_this_rank_was_started_for(serving):
    start, folder, ended, done = serving
    thread = start(
        lambda asked: (
            Result({}, {"seed": asked.study.seed}, {}) if asked.study.seed else broken(asked)
        )
    )
    path = frames.socket(folder)
    for seed in (1, 2):
        assert frames.call(path, "count", job(seed=seed)).metrics == {"seed": seed}
    assert all(asked.place.silo == str(folder) for asked in done)
    with pytest.raises(Fault) as caught:
        frames.call(path, "fit", job(seed=0))
    thread.join(timeout=10)
    assert caught.value.code == "internal"
    assert [error.args for error in ended] == [(1,)]  # after a bug it starts anew


def test_what_is_no_job_is_passed_over(serving):
    start, folder, ended, _ = serving
    thread = start(lambda asked: Result({}, {}, {}) if asked.study == Study() else broken(asked))
    path = frames.socket(folder)
    for content in (b"", b"junk", struct.pack(">Q", 2**60), struct.pack(">Q", 3) + b"abc"):
        with frames._connected(path, 10) as connection:
            connection.sendall(content)
    while not sockets.alive(path):
        pass
    assert frames.call(path, "count", job()) == Result({}, {}, {})
    with pytest.raises(Fault):
        frames.call(path, "fit", job(seed=0))
    thread.join(timeout=10)
    assert len(ended) == 1


def test_a_rank_that_left_answers_nothing(serving):
    start, folder, ended, _ = serving

    def left(asked):
        raise Left("asked to leave")

    thread = start(left)
    with frames._connected(frames.socket(folder), 10) as connection:
        frames.send(connection, frames.of_job("fit", job()))
        with pytest.raises(ConnectionError):
            frames.receive(connection)
    thread.join(timeout=10)
    assert [type(error) for error in ended] == [Left]
    rank._training.clear()


ARRAYS = {"x": np.arange(9, dtype=np.float32)}


def test_the_arrays_of_a_result_lie_in_the_outbox_and_none_travel_in_the_frame(serving):
    start, folder, _, _ = serving
    start(lambda asked: Result(ARRAYS if asked.study.seed else {}, {}, {}))
    path = frames.socket(folder)
    found = frames.call(path, "fit", job(seed=1))
    assert not found.arrays
    np.testing.assert_array_equal(parcels.read(folder / "outbox", found.parcel)["x"], ARRAYS["x"])
    assert frames.call(path, "fit", job(seed=0)) == Result({}, {}, {})


def test_a_round_that_is_asked_for_again_is_answered_from_the_outbox_and_not_trained_again(serving):
    start, folder, _, done = serving
    start(lambda asked: Result(ARRAYS, {"loss": float(asked.order.round)}, {"losses": [1.0, 0.5]}))
    path, asked = frames.socket(folder), job()
    first = frames.call(path, "fit", asked)
    assert frames.call(path, "fit", asked) == first  # its hub was killed before it had the answer
    assert len(done) == 1
    parcels.path(folder / "outbox", first.parcel).write_bytes(b"what a bad disk left")
    assert frames.call(path, "fit", asked) == first
    assert len(done) == 2
    for changes in ({"lost": 1}, {"after": 1}):
        other = asked._replace(order=asked.order._replace(**changes))
        assert frames.call(path, "fit", other).metrics == {"loss": other.order.round}
    assert len(done) == 4
    for _ in range(2):  # all else is done as often as it is asked for
        frames.call(path, "second", asked)
    assert len(done) == 6


def test_the_gateway_hears_of_an_update_as_soon_as_it_is_durable(serving):
    start, folder, _, _ = serving
    start(lambda asked: Result(ARRAYS, {}, {}))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(posted.path(folder)))
        found = frames.call(frames.socket(folder), "fit", job(seed=1))
        parcel, seal = posted.heard(ear.recv(posted.LONGEST))
    posted.path(folder).unlink()
    assert parcel == found.parcel
    assert seal == posted.seal(parcels.path(folder / "outbox", parcel))


def test_a_job_finds_what_it_received_in_the_inbox(serving):
    start, folder, _, done = serving
    start(lambda asked: Result({}, {}, {}))
    parcel = parcels.keep(folder / "inbox", ARRAYS)
    frames.call(frames.socket(folder), "fit", job()._replace(parcel=parcel))
    np.testing.assert_array_equal(done[0].received["x"], ARRAYS["x"])


def test_a_job_whose_parcel_is_gone_is_told_so_and_the_group_goes_on(serving):
    start, folder, ended, done = serving
    start(lambda asked: Result({}, {"loss": 1.0}, {}))
    with pytest.raises(Fault) as caught:
        gone = parcels.Parcel("0" * 64, 9)
        frames.call(frames.socket(folder), "fit", job()._replace(parcel=gone))
    assert caught.value.code == "malformed"
    assert frames.call(frames.socket(folder), "fit", job()).metrics == {"loss": 1.0}
    assert not ended
    assert len(done) == 1
