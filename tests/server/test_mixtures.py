"""Silos that hold several languages, as rules about a study's silos see them: in a simulation, at a hub, in a plan."""

from __future__ import annotations

from collections import Counter

import pytest

from fl_client import site
from fl_client.config import ConfigError
from fl_server import outlook
from fl_server.outlook import Known
from fl_server.paces import Power
from fl_server.simulation import sites
from fl_server.simulation.study import prepare

SAME_MIX = {
    "rounds": 1,
    "seed": 1,
    "guard": "multi_krum(f=1)",
    "strategy": "fedavg(rows='silo')",
    "simulation__languages": "as,ne,mai",
    "simulation__silos": 5,
    "simulation__partition": "iid()",
}


@pytest.fixture
def mixed(small, tmp_path):
    """Return a study under a guard, of silos that all hold one mix; one has more of a language than any other."""
    study = small(tmp_path / "run", **SAME_MIX)
    spoken = sites.spoken(study, site.simulated(study))
    assert 1 in Counter(spoken.mostly.values()).values()
    assert all(held == {"as", "ne", "mai"} for held in spoken.held.values())
    return study


def test_a_simulation_of_silos_that_hold_the_same_mix_may_have_a_guard(mixed):
    assert prepare(mixed) == 5


def test_a_hub_whose_silos_hold_the_same_mix_may_have_a_guard(mixed, simulate):
    assert simulate(mixed)["rounds_completed"] == 1


def test_a_plan_looks_at_all_that_a_silo_holds(mixed):
    power = Power(1, 0, 0.0, 0.0)
    silos = [Known(f"s{k}", "approved", ("as",), "as", None, power) for k in range(5)]
    odd = Known("s5", "approved", ("ne",), "ne", None, power)
    with pytest.raises(ConfigError, match=r"s5 \(no other silo there holds ne\)"):
        outlook.outlook(mixed, [*silos, odd], 2**40)
    some = silos[0]._replace(languages=("as", "ne"))
    assert len(outlook.outlook(mixed, [some, *silos[1:], odd], 2**40).rows) == 6
