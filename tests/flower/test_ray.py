"""``--engine ray``: the same study in the actors of Flower's simulation runtime."""

from __future__ import annotations

import gc
import json
import logging
from pathlib import Path

import pytest

from fl_client.app import app as client
from fl_client.config import flat
from fl_server import record
from fl_server.app import app as server
from fl_server.simulation import grid


@pytest.fixture
def said():
    """Return the list of what hub and silos log, whichever process they log it in."""
    lines = []

    class Ear(logging.Handler):
        def emit(self, line):
            lines.append(line.getMessage())

    logger, ear = logging.getLogger("bhasha_fl"), Ear()
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(ear)
    yield lines
    logger.removeHandler(ear)
    logger.setLevel(level)


def run(study, pool, cohort):
    folder = Path(study.home)
    record.claim(folder, study, resume=False)
    silos = study.simulation.silos
    grid.run(server, client, silos, flat(study), pool=pool, cohort=cohort)
    return json.loads((folder / "report.json").read_text())


@pytest.mark.superlink
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_study_on_ray_has_the_bits_of_this_machine_and_an_actor_loads_its_base_once(
    small, tmp_path, said, monkeypatch, caplog
):
    from fl_server.simulation import actors

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_worker_niceness", "0")  # or whoever else is busy comes first
    less = {"rounds": 1, "train__steps": 1, "simulation__languages": "ne", "simulation__silos": 4}
    here = run(small(tmp_path / "here", **less), None, 0)
    together = run(small(tmp_path / "together", **less), None, 2)
    said.clear()
    logging.getLogger("flwr").addHandler(caplog.handler)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    with actors.several(2, 1) as crew:
        apart = run(small(tmp_path / "apart", **less), crew, 0)
        lots = run(small(tmp_path / "lots", **less), crew, 2)
    logging.getLogger("flwr").removeHandler(caplog.handler)
    assert "DEPRECATED" not in caplog.text
    # Ray leaves files open: they are collected while this test ignores what is said of it.
    gc.collect()
    assert apart["adapter_sha256"] == here["adapter_sha256"]
    assert lots["adapter_sha256"] == together["adapter_sha256"]
    assert lots["cohort"] == {"most": 2, "apart": {}}
    loads = [line for line in said if "loads builtin:tiny" in line]
    assert 1 <= len(loads) <= 2 and len(loads) == len(set(loads))  # a line names its process
