"""The task ``translate`` in a whole study: the prompt is given, the answer is learned, chrF++ is reported."""

from __future__ import annotations

import pytest

from fl_client import site
from fl_client.config import ConfigError


def test_a_study_of_translation_reports_chrf_beside_bits_per_byte(small, simulate, tmp_path):
    study = small(
        tmp_path / "run", task="translate()", simulation__silos=2, rounds=1, evaluate__answers=2
    )
    report = simulate(study)
    for lang in ("as", "ne"):
        row = report["languages"][lang]
        assert row["after"]["bits_per_byte"] < row["before"]["bits_per_byte"]
        assert 0 <= row["after"]["chrf++"] <= 100
    example = site.simulated(study)[0].test[0]
    assert example.prompt.startswith("en: ")
    assert example.prompt.endswith("\nas: ")
    # Bits are those of the answer alone: the bytes scored are the answers' bytes.
    total = sum(len(e.text.encode()) for e in site.simulated(study)[0].test)
    assert total < sum(len((e.prompt + e.text).encode()) for e in site.simulated(study)[0].test)


def test_text_without_its_source_language_is_refused(small, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "as.txt").write_text("অসমীয়া ভাষা\n" * 5)
    study = small(
        tmp_path / "run",
        task="translate()",
        simulation__data=str(data),
        simulation__languages="as",
        simulation__silos=1,
    )
    with pytest.raises(ConfigError, match="no text for this task in as"):
        site.simulated(study)
