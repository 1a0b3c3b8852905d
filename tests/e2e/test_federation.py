"""A hub and two silos as processes of their own on loopback, over mutual TLS."""

from __future__ import annotations

from pathlib import Path

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
    # an adapter that was sent to be scored is not fetched again to train from
    assert report["bytes"]["down"] < 0.7 * local["bytes"]["down"]
    if not tolerance:
        assert report["adapter_sha256"] == local["adapter_sha256"]
    for lang, row in local["languages"].items():
        bits = report["languages"][lang]["after"]["bits_per_byte"]
        assert bits == pytest.approx(row["after"]["bits_per_byte"], abs=max(tolerance, 1e-12))
    # at home too: alone, adapted, and distilled from both
    for name, row in local["silo_scores"].items():
        assert (Path(study.home) / "silos" / name / "distilled").is_dir()
        found = report["silo_scores"][name]
        for what in ("alone", "adapted"):
            assert found[what] == pytest.approx(row[what], abs=max(100 * tolerance, 1e-12))


def test_a_hub_that_lost_flowers_database_goes_on_and_nobody_touches_a_silo(
    federation, simulate, study
):
    local = simulate(study)
    real = federation(study.model_copy(update={"home": ""}))
    real.begin()
    for name in real.silos:
        real.join(name, threads="1")

    def here():
        return all(silo.get("connected") for silo in real.status()["silos"])

    real.until(here, "the silos")
    before = {silo["name"]: silo["node_id"] for silo in real.status()["silos"]}
    real.hub.type("fl-server stop")
    for path in (real.hub.folder / "hub").glob("superlink.db*"):
        path.unlink()
    real.hub.start("fl-server start")
    real.run()
    assert real.finished()["adapter_sha256"] == local["adapter_sha256"]
    after = {silo["name"]: silo["node_id"] for silo in real.status()["silos"]}
    assert not set(before.values()) & set(after.values())
