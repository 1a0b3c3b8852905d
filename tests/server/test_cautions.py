"""What a hub says as a study begins, of choices that others would do better than."""

from __future__ import annotations

import logging

import pytest

BUFFERED = {"schedule": "buffered(size=2)", "rounds": 2, "strategy": "fedavg(rows='silo')"}


@pytest.mark.parametrize(("outer", "said"), [("momentum()", 1), ("delayed_nesterov()", 0)])
def test_a_study_that_is_cautioned_about_its_momentum_is_told_once_and_goes_on(
    outer, said, small, simulate, tmp_path, caplog
):
    with caplog.at_level(logging.WARNING, "bhasha_fl.hub"):
        report = simulate(small(tmp_path / "run", outer=outer, **BUFFERED))
    assert report["rounds_completed"] == 2
    assert sum("[C31]" in r.getMessage() for r in caplog.records) == said
