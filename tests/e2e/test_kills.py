"""A hub and a silo that are killed at named points, in real processes; ``benchmarks.kills`` does so at many more."""

from __future__ import annotations

import pytest

from benchmarks import kills, toll
from benchmarks.points import Fault

pytestmark = pytest.mark.superlink


def test_a_hub_and_a_silo_killed_in_mid_round_end_where_one_machine_does_and_nobody_trains_in_vain(
    federation, simulate, small, tmp_path
):
    study = small(tmp_path / "local", rounds=8, simulation__silos=2, evaluate__every=8)
    local = simulate(study)
    real = federation(study.model_copy(update={"home": ""}))
    kills.begin(real)
    faults = [
        Fault("fl_client.memory.complete before in fl_server.journal.commit", "hub"),
        Fault("fl_client.rank._answer before", "silo"),
    ]
    killed, failed = kills.killed(real, faults)
    report = real.finished()
    assert not failed
    assert [kill.fault for kill in killed] == faults  # each of them fired
    assert report["rounds_completed"] == 8
    assert report["adapter_sha256"] == local["adapter_sha256"]
    assert toll.retrained(real, killed) == 0
