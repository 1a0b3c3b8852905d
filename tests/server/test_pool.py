"""Several processes: the same bits, logs that arrive, and nobody left behind."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from fl_client.app import app as client
from fl_client.config import flat
from fl_server import record
from fl_server.app import app as server
from fl_server.simulation import grid
from fl_server.simulation.pool import Pool, context, gpu, several

CHILDREN = """
import os, sys, time
from fl_server.simulation.pool import Pool, several
if __name__ == "__main__":
    pool = Pool(2)
    print(*{pool.submit(os.getpid).result() for _ in range(20)}, flush=True)
    time.sleep(600)
"""


def test_two_processes_make_the_same_bits_as_one(plain, small, tmp_path):
    _, alone = plain
    study = small(tmp_path / "two")
    record.claim(Path(study.home), study, resume=False)
    grid.run(server, client, study.simulation.silos, flat(study), processes=2)
    assert (
        f'"adapter_sha256": "{alone["adapter_sha256"]}"'
        in (tmp_path / "two" / "report.json").read_text()
    )


def warn(text: str) -> None:
    logging.getLogger("bhasha_fl.test").warning(text)


def test_what_a_process_logs_reaches_the_loggers_of_its_parent(caplog):
    pool = Pool(2)
    try:
        pool.submit(warn, "said in another process").result()
        for _ in range(100):
            if "said in another process" in caplog.text:
                break
            time.sleep(0.05)
    finally:
        pool.close()
    assert "said in another process" in caplog.text


def loaded() -> tuple[int, bool]:
    return os.getppid(), "torch" in sys.modules


@pytest.mark.skipif(gpu(), reason="there is a GPU")
def test_processes_are_forked_from_one_that_has_imported_torch():
    pool = Pool(1)
    try:
        parent, torch = pool.submit(loaded).result()
    finally:
        pool.close()
    assert torch
    assert parent != os.getpid()


def test_where_there_is_a_gpu_every_process_begins_by_itself(monkeypatch, tmp_path):
    monkeypatch.setattr("fl_server.simulation.pool.GPUS", (str(tmp_path / "none"),))
    assert context().get_start_method() == "forkserver"
    monkeypatch.setattr("fl_server.simulation.pool.GPUS", (str(tmp_path),))
    assert context().get_start_method() == "spawn"


def test_a_process_that_dies_is_noticed():
    pool = Pool(2)
    try:
        with pytest.raises(BrokenProcessPool):
            pool.submit(os._exit, 1).result()
    finally:
        pool.kill()


def test_processes_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(CHILDREN)
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    children = [int(pid) for pid in parent.stdout.readline().split()]
    assert children and all(alive(pid) for pid in children)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    for _ in range(200):
        if not any(alive(pid) for pid in children):
            break
        time.sleep(0.05)
    assert not any(alive(pid) for pid in children)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_after_a_process_died_over_its_work_later_work_is_done_by_new_ones():
    with several(2) as pool:
        with pytest.raises(BrokenProcessPool):
            pool.submit(os._exit, 1).result()
        assert pool.submit(os.getpid).result() != os.getpid()


def test_one_process_needs_no_pool_and_a_pool_broken_off_leaves_nobody_behind():
    with several(1) as none:
        assert none is None
    with pytest.raises(KeyboardInterrupt), several(2) as pool:  # noqa: PT012
        worker = pool.submit(os.getpid).result()
        raise KeyboardInterrupt
    for _ in range(200):
        if not alive(worker):
            break
        time.sleep(0.05)
    assert not alive(worker)
