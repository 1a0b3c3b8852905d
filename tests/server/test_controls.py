"""Control variates in a real run: they travel, they are merged over all silos, and they are in nothing released."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

from fl_client import memory, model, spec
from fl_client.config import ConfigError
from fl_server import config, forecast, journal
from strategies import scope
from strategies.adapter import CONTROL, layout, size, trained
from strategies.scaffold import OWN

SGD = {"strategy": "scaffold()", "train__optimizer": "sgd", "train__lr": 0.3, "codec": "float32()"}


def means(folder):
    """Yield each control variate that the hub holds, with the mean of what silos keep of it."""
    homes = {home.name: home for home in (folder / "silos").iterdir()}
    groups = {"everyone": sorted(homes), "as": ["as-1", "as-2"], "ne": ["ne-1", "ne-2"]}
    state = journal.recall(folder / "journal")
    assert state is not None and state.round == 3 and state.adapter.keys() == groups.keys()
    for group, members in groups.items():
        kept = [memory.recall(homes[silo], 4) for silo in members]
        names = [n for n in state.adapter[group] if n.endswith(CONTROL)]
        assert len(names) == len(trained(state.adapter[group])) > 0
        for name in names:
            owns = [own[f"local/{name.removesuffix(CONTROL)}{OWN}"] for own in kept]
            assert np.any(owns[0] != owns[1])
            yield state.adapter[group][name], np.mean(owns, axis=0, dtype=np.float64)


@pytest.fixture(scope="module")
def ran(small, simulate, tmp_path_factory):
    """Return a study of three rounds by SCAFFOLD, its report and its folder."""
    folder = tmp_path_factory.mktemp("scaffold") / "run"
    study = small(folder, rounds=3, weights="uniform()", **SGD)
    return study, simulate(study), folder


def test_everyones_control_variate_is_the_mean_of_what_the_silos_keep(ran):
    for held, mean in means(ran[2]):
        np.testing.assert_allclose(held, mean, atol=1e-6)


def test_under_a_codec_that_rounds_silos_keep_what_arrived(small, simulate, tmp_path):
    study = small(tmp_path / "run", rounds=3, weights="uniform()", **SGD | {"codec": "int8()"})
    simulate(study)
    for held, mean in means(tmp_path / "run"):
        np.testing.assert_allclose(held, mean, atol=1e-6)


def test_no_control_variate_is_released_or_served(ran):
    _, report, folder = ran
    files = [*folder.glob("adapter/*/*.safetensors"), *folder.glob("silos/*/served/*.safetensors")]
    assert len(files) == len(report["adapters"]) + 4
    assert not any(CONTROL in name for file in files for name in load_file(file))


def test_the_forecast_of_bytes_counts_control_variates_both_ways(ran):
    study, report, _ = ran
    made = model.warm(study.model, 0, scope.scripts(["as", "ne"]), study.seed)
    strategy, shapes = spec.build(study.strategy, "strategy"), layout(made.start)
    trips = forecast.trips(study, strategy, shapes)
    assert sum(trip.up for trip in trips) * 4 == report["bytes"]["up"]
    assert sum(trip.down for trip in trips) * 4 == report["bytes"]["down"]
    assert report["bytes"]["dense_up"] == 2 * size(shapes) * 4 * 4 * 3


def test_the_first_round_is_fedavgs_and_the_second_is_not(small, simulate, tmp_path):
    for strategy in ("scaffold", "fedavg"):
        study = small(tmp_path / strategy, **SGD)
        simulate(study.model_copy(update={"strategy": f"{strategy}()"}))

    def equal(number):
        ours, theirs = (
            journal.recall(tmp_path / strategy / "journal", number).adapter
            for strategy in ("scaffold", "fedavg")
        )
        held = [(ours[group][n], x) for group in theirs for n, x in theirs[group].items()]
        assert held
        return all(np.array_equal(one, other) for one, other in held)

    assert equal(1)
    assert not equal(2)


def test_a_seed_fixes_a_run_with_control_variates_to_the_bit(ran, small, simulate, tmp_path):
    study, report, _ = ran
    again = study.model_copy(update={"home": str(tmp_path / "run")})
    assert simulate(again, 2)["adapter_sha256"] == report["adapter_sha256"]


def test_adamw_is_refused_before_anything_is_trained(small, tmp_path):
    with pytest.raises(ConfigError, match=r"\[C32\]; set train.optimizer='sgd'"):
        config.build(small(tmp_path, strategy="scaffold()"))
    parts, _ = config.build(small(tmp_path, strategy="scaffold()", train__optimizer="sgd"))
    assert not parts.adaptive
