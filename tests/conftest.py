"""What many tests need: a study small enough to run in seconds, and a run of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from fl_client.app import app as client
from fl_client.config import Study, flat, from_flat
from fl_server import record
from fl_server.app import app as server
from fl_server.simulation import grid

# A property holds on a slow machine too, and its examples are the same on every run.
settings.register_profile("ours", deadline=None, derandomize=True, database=None)
settings.load_profile("ours")

# Files of minutes: they begin first, or of two workers one ends long before the other.
LONG = ["test_readme.py", "test_wiring.py", "test_federation.py", "test_kills.py"]

SMALL = {
    "rounds": 2,
    "model.rank": 2,
    "train.steps": 2,
    "train.batch_size": 2,
    "train.length": 32,
    "train.dtype": "float32",
    "alone.enabled": False,
    "evaluate.characters": 100,
    "simulation.languages": "as,ne",
    "simulation.silos": 4,
    "simulation.characters": 2000,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of long files first."""
    place = {name: at for at, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONG)))


@pytest.fixture(scope="session")
def small() -> Callable[..., Study]:
    """Return a maker of small studies: ``small(folder, rounds=3, train__steps=1)``."""

    def make(home: Path, **changes: Any) -> Study:
        pairs = {key.replace("__", "."): value for key, value in changes.items()}
        return from_flat(SMALL | pairs | {"home": str(home)})

    return make


@pytest.fixture(scope="session")
def simulate() -> Callable[..., dict[str, Any]]:
    """Return a function that runs a study in its folder and returns its report."""

    def run(
        study: Study, order: int | None = None, app: Any = client, cohort: int = 0
    ) -> dict[str, Any]:
        silos = study.simulation.silos
        folder = Path(study.home)
        if not (folder / "provenance.json").exists():
            record.claim(folder, study, resume=False)
        grid.run(server, app, silos, flat(study), order, cohort=cohort)
        report: dict[str, Any] = json.loads((folder / "report.json").read_text())
        return report

    return run


@pytest.fixture(scope="session")
def plain(
    small: Callable[..., Study],
    simulate: Callable[..., dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Study, dict[str, Any]]:
    """Return the small study as it is with its report, made once for all tests that compare with it."""
    study = small(tmp_path_factory.mktemp("plain") / "run")
    return study, simulate(study)


@pytest.fixture(scope="session")
def damaged() -> Callable[[Study, Path], Study]:
    """Return a maker of a copy of a run whose last round is damaged by one bit, and whose report is gone."""

    def make(study: Study, home: Path) -> Study:
        shutil.copytree(study.home, home)
        (home / "report.json").unlink()
        arrays = sorted((home / "journal").glob("*.safetensors"))[-1]
        content = bytearray(arrays.read_bytes())
        content[-7] ^= 1
        arrays.write_bytes(bytes(content))
        return study.model_copy(update={"home": str(home)})

    return make


@pytest.fixture(scope="session")
def finished(
    small: Callable[..., Study],
    simulate: Callable[..., dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Study, dict[str, Any]]:
    """Return one small study of three rounds with its report, made once for all tests that only read it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    study = small(folder, rounds=3, alone__enabled=True, alone__rates="0.005")
    return study, simulate(study)
