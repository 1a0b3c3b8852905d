"""Jobs and results over a Unix socket: what goes in comes out, what does not parse is refused, and a group that goes
away under a job is asked again."""

from __future__ import annotations

import math
import os
import socket
import stat
import struct
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_client import frames, sockets
from fl_client.config import ConfigError, Study
from fl_client.messages import CODES, Fault, Order
from fl_client.site import Place
from fl_client.workers import Job, Result

quick = settings(deadline=None, derandomize=True, max_examples=300, database=None)

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(0, np.uint16)}
JOB = Job(Study(seed=9, name="ours"), Place(silo="/silos/ক"), Order(3, "Beng", "f" * 64, 2), ARRAYS)
RESULT = Result(ARRAYS, {"loss": 1.5, "bits": math.inf}, {"silo": "ক", "losses": [1.0, 2.5]})


def equal(left, right) -> bool:
    return left.keys() == right.keys() and all(
        left[n].dtype == right[n].dtype and np.array_equal(left[n], right[n]) for n in left
    )


@pytest.fixture
def path(tmp_path):
    """Return where a group may listen: a short path, as those of Unix sockets must be."""
    found = frames.socket(tmp_path)
    yield found
    found.unlink(missing_ok=True)
    found.parent.rmdir()


@contextmanager
def group(path: Path, *answers):
    """Run a worker group that gives these answers one after the other; None: it goes away. Yield what it was asked."""
    asked = []
    listener = frames.listen(path)

    def serve():
        for answer in answers:
            connection, _ = listener.accept()
            with connection:
                asked.append(frames.receive(connection))
                if answer is not None:
                    connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield asked
    finally:
        thread.join(timeout=10)
        listener.close()
    assert not thread.is_alive()


def framed(content: bytes) -> bytes:
    return struct.pack(">Q", len(content)) + content


def test_a_job_comes_out_as_it_went_in():
    for kind in ("count", "initial", "gradient", "fit", "second", "rail", "score"):
        found, job = frames.job(frames.of_job(kind, JOB))
        assert found == kind
        assert job[:3] == JOB[:3]
        assert equal(job.received, ARRAYS)


def test_a_result_comes_out_as_it_went_in():
    found = frames.result(frames.of_result(RESULT))
    assert found[1:] == RESULT[1:]
    assert equal(found.arrays, ARRAYS)


@pytest.mark.parametrize("code", CODES)
def test_a_fault_comes_out_with_its_code_and_its_text_once(code):
    for detail in ("", "because"):
        error = Fault(code, detail)
        with pytest.raises(Fault) as caught:
            frames.result(frames.of_error(error))
        assert caught.value.code == code
        assert str(caught.value) == str(error)


def test_a_refusal_comes_out_as_the_sentence_it_was():
    with pytest.raises(ConfigError, match="^one plain sentence$"):
        frames.result(frames.of_error(ConfigError("one plain sentence")))


def test_a_code_that_is_not_known_is_internal():
    with pytest.raises(Fault) as caught:
        frames.result(frames.write({"fault": "invented"}, {}))
    assert caught.value.code == "internal"


@quick
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_as_a_value_error(content):
    with pytest.raises(ValueError):
        frames.job(content)


@quick
@given(st.data())
def test_a_frame_with_some_bytes_changed_or_cut_is_read_or_refused(data):
    content = bytearray(frames.of_job("fit", JOB._replace(received={"x": np.zeros(1, np.uint8)})))
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
        content[at] = data.draw(st.integers(0, 255))
    cut = bytes(content[: data.draw(st.integers(0, len(content)))])
    for frame in (bytes(content), cut):
        with suppress(ValueError):
            frames.job(frame)


HEADER, _ = frames.read(frames.of_job("fit", JOB))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "eval"},
        {"kind": ["fit"]},
        {"kind": None},
        {"order": {"after": "3"}},
        {"order": {"after": True}},
        {"order": {"before": 3}},
        {"order": []},
        {"place": {"silo": 1}},
        {"place": {"folder": "x"}},
        {"study": {"no.such": 1}},
        {"study": {"rounds": 0}},
        {"study": []},
    ],
    ids=str,
)
def test_a_header_that_is_no_job_is_refused(change):
    frames.job(frames.write(HEADER, {}))
    with pytest.raises(ValueError):
        frames.job(frames.write(HEADER | change, {}))


@pytest.mark.parametrize("header", [b"[]", b"{", b"\xff", b"[" * 100_000])
def test_a_header_that_is_no_table_is_refused(header):
    with pytest.raises(ValueError):
        frames.read(struct.pack(">I", len(header)) + header + frames.write({}, {})[6:])


def test_a_header_that_says_it_is_longer_than_the_frame_or_the_cap_is_refused():
    for size in (frames.LONGEST_HEADER + 1, 2**32 - 1, 100):
        with pytest.raises(ValueError, match="header"):
            frames.read(struct.pack(">I", size) + b"{}")


def test_the_answer_of_a_group_comes_back(path):
    with group(path, framed(frames.of_result(RESULT))) as asked:
        found = frames.call(path, "fit", JOB)
    assert found[1:] == RESULT[1:]
    assert asked == [frames.of_job("fit", JOB)]


def test_a_group_that_goes_away_is_sent_the_same_job_again(path):
    answer = framed(frames.of_result(RESULT))
    with group(path, None, answer[:5], answer[:-1], answer) as asked:
        assert frames.call(path, "fit", JOB)[1:] == RESULT[1:]
    assert len(asked) == 4
    assert len(set(asked)) == 1


def test_a_group_that_comes_back_later_is_waited_for(path):
    answered = []
    caller = threading.Thread(target=lambda: answered.append(frames.call(path, "fit", JOB, 30)))
    caller.start()
    with group(path, None):
        pass
    with group(path, framed(frames.of_result(RESULT))):
        caller.join(timeout=30)
    assert answered[0][1:] == RESULT[1:]


def test_after_five_times_more_the_job_is_given_up(path):
    with group(path, *[None] * 6) as asked, pytest.raises(Fault, match="6 times") as caught:
        frames.call(path, "fit", JOB)
    assert caught.value.code == "internal"
    assert len(asked) == 6


def test_without_a_group_a_job_is_given_up_after_the_time_to_wait(path):
    with pytest.raises(Fault, match="no worker group") as caught:
        frames.call(path, "fit", JOB, wait_s=0.2)
    assert caught.value.code == "internal"


@pytest.mark.parametrize(
    "answer", [struct.pack(">Q", frames.LONGEST + 1), framed(b"nonsense"), framed(b"")]
)
def test_an_answer_that_makes_no_sense_is_internal_and_not_asked_again(answer, path):
    with group(path, answer) as asked, pytest.raises(Fault) as caught:
        frames.call(path, "fit", JOB)
    assert caught.value.code == "internal"
    assert len(asked) == 1


def test_only_this_user_can_open_the_socket(path):
    mask = os.umask(0)
    try:
        with frames.listen(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert os.umask(0) == 0
    finally:
        os.umask(mask)


def test_a_socket_that_a_killed_group_left_is_taken_over(path):
    frames.listen(path).close()
    assert not sockets.alive(path)
    with frames.listen(path):
        assert sockets.alive(path)
    assert not sockets.alive(path)


def test_an_array_travels_whole_however_it_is_cut_on_the_way(path):
    large = {"x": np.random.default_rng(0).standard_normal(800_000).astype(np.float32)}
    answer = framed(frames.of_result(Result(large, {}, {})))
    with group(path, answer):
        assert equal(frames.call(path, "fit", JOB).arrays, large)


def test_a_frame_that_ends_early_is_a_broken_connection_and_one_too_long_is_not_read():
    left, right = socket.socketpair()
    with left, right:
        left.sendall(struct.pack(">Q", 10) + b"123")
        left.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionError):
            frames.receive(right)
    left, right = socket.socketpair()
    with left, right:
        left.sendall(struct.pack(">Q", frames.LONGEST + 1))
        with pytest.raises(ValueError, match="longer"):
            frames.receive(right)


def test_frames_need_no_torch():
    code = "import sys, fl_client.frames; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
