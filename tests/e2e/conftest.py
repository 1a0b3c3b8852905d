"""A real federation on loopback for tests; it ends with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.federation import Federation, free_address
from fl_client.config import Study


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Callable[[Study], Federation]]:
    """Return a maker of federations on loopback."""
    made: list[Federation] = []

    def make(study: Study) -> Federation:
        made.append(Federation(tmp_path, study, free_address()))
        return made[-1]

    yield make
    for each in made:
        each.end()
