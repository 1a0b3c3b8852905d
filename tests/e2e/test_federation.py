"""A hub and two silos as processes of their own on loopback, over mutual TLS."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.superlink


@pytest.fixture
def study(small, tmp_path):
    return small(
        tmp_path / "local", rounds=3, simulation__silos=2, train__batch_size=4, alone__enabled=True,
        alone__rates="0.005",
    )  # fmt: skip


@pytest.mark.parametrize(("processes", "tolerance"), [(1, 0.0), (2, 1e-5)])
def test_a_federation_ends_where_the_same_study_on_one_machine_does(
    federation, simulate, study, processes, tolerance
):
    local = simulate(study)
    real = federation(study.model_copy(update={"home": ""}))
    real.begin()
    real.join("as-1", processes=f'"{processes}"', threads="1")
    real.join("ne-1", threads="1")
    real.run()
    report = real.finished()
    assert report["rounds_completed"] == 3
    assert set(report["effort"]["as-1"]["efficiency"]) == {str(n) for n in range(processes)}
    if not tolerance:
        assert report["adapter_sha256"] == local["adapter_sha256"]
    for lang, row in local["languages"].items():
        bits = report["languages"][lang]["after"]["bits_per_byte"]
        assert bits == pytest.approx(row["after"]["bits_per_byte"], abs=max(tolerance, 1e-12))
