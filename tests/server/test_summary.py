"""The summary against a slow oracle, and what it leaves out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_server.summary import STAGES, family, summary
from strategies.scope import languages

quick = settings(deadline=None, derandomize=True, max_examples=100, database=None)
VALUES = st.floats(0.1, 100)
OWN = st.fixed_dictionaries(
    {stage: VALUES for stage in ("before", "alone", "together", "adapted", "blend")}
    | {"served": st.sampled_from(["base", "alone", "together", "adapted", "blend"])}
    | {"language": st.sampled_from(["as", "ne", "sat", "ta", "xx"])}
    | {"scores": st.just({})}
)
SILOS = st.dictionaries(st.text("abc", min_size=1, max_size=4), OWN, min_size=1, max_size=8)


def own(language="as", **found):
    """Return a silo's row; every stage needs 2 bits a byte and has no score where nothing else is said."""
    scores = {stage: found.pop(f"{stage}_scores", {}) for stage in STAGES}
    return {
        "language": language,
        "before": 2.0,
        "alone": 2.0,
        "together": 2.0,
        "served": "together",
        "scores": scores,
    } | found


def _key(row, stage):
    """Return where the bits of a stage stand in a silo's row."""
    return stage if stage != "served" else {"base": "before"}.get(row["served"], row["served"])


@quick
@given(SILOS, st.sampled_from(STAGES))
def test_bits_are_summed_up_as_a_slow_oracle_does(silos, stage):
    found = summary(silos)[stage]["bits_per_byte"]
    bits = {name: row[_key(row, stage)] for name, row in silos.items()}
    values = np.array(list(bits.values()))
    assert math.isclose(found["mean"], values.mean(), abs_tol=1e-5)
    assert math.isclose(found["spread"], values.max() - values.min(), abs_tol=1e-5)
    assert bits[found["worst_silo"]["name"]] == values.max()
    kin = {}
    for name, row in silos.items():
        kin.setdefault(family(row["language"]), []).append(bits[name])
    means = {name: np.mean(held) for name, held in kin.items()}
    assert math.isclose(found["worst_family"]["value"], max(means.values()), abs_tol=1e-5)
    assert math.isclose(means[found["worst_family"]["name"]], max(means.values()), abs_tol=1e-5)


@quick
@given(SILOS)
def test_the_gap_is_together_minus_alone(silos):
    found = summary(silos)["gap"]
    alone, together = (np.array([s[w] for s in silos.values()]) for w in ("alone", "together"))
    assert math.isclose(found["bits_per_byte"], (together - alone).mean(), abs_tol=1e-5)
    assert math.isclose(
        found["percent"], (100 * (together - alone) / alone).mean(), rel_tol=1e-6, abs_tol=1e-3
    )


def test_the_worst_score_is_the_lowest_and_the_worst_bits_are_the_highest():
    silos = {
        "a": own("as", together=1.0, together_scores={"accuracy": 50.0}),
        "b": own("ta", together=3.0, together_scores={"accuracy": 90.0}),
    }
    found = summary(silos)["together"]
    assert found["bits_per_byte"]["worst_silo"] == {"name": "b", "value": 3.0}
    assert found["accuracy"] == {
        "mean": 70.0,
        "spread": 40.0,
        "worst_silo": {"name": "a", "value": 50.0},
        "worst_family": {"name": "Indo-Aryan", "value": 50.0},
    }


def test_a_family_is_the_mean_of_its_silos():
    silos = {"a": own("as", together=1.0), "b": own("ne", together=4.0), "c": own("ta")}
    worst = summary(silos)["together"]["bits_per_byte"]["worst_family"]
    assert worst == {"name": languages()["as"].family, "value": 2.5}


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_a_number_that_a_silo_lacks_is_not_made_up_from_the_others(missing):
    silos = {"a": own(together=missing), "b": own(together=1.0, alone=2.0)}
    found = summary(silos)
    assert "bits_per_byte" not in found["together"]
    assert found["before"]["bits_per_byte"]["mean"] == 2.0
    assert found["gap"] == {"bits_per_byte": -1.0, "percent": -50.0, "silos": 1}


@pytest.mark.parametrize("missing", [None, math.nan])
def test_a_silo_that_did_not_train_alone_is_not_in_the_gap(missing):
    silos = {"a": own(alone=missing), "b": own(together=1.0, alone=2.0)}
    assert summary(silos)["gap"]["silos"] == 1


def test_there_is_no_gap_where_nobody_trained_alone():
    found = summary({"a": own(alone=None)})
    assert found["gap"] is None
    assert found["alone"] == {}


def test_a_language_that_is_in_no_table_is_a_family_of_its_own():
    assert family("qqq") == "qqq"
    assert family("sat") == "Austroasiatic"


def test_silos_that_were_not_scored_are_named_and_in_no_number():
    silos = {"a": own(together=1.0), "b": own(together=3.0)}
    nothing = dict.fromkeys(("before", "alone", "together", "served"))
    found = summary(silos | {"c": own() | nothing})
    assert found == summary(silos) | {"unscored": ["c"]}
    assert summary(silos)["unscored"] == []
    assert summary({"c": own() | nothing})["together"] == {}


def test_a_silo_that_needs_no_bits_alone_is_not_in_the_gap():
    silos = {"a": own(alone=0.0), "b": own(together=1.0, alone=2.0)}
    assert summary(silos)["gap"] == {"bits_per_byte": -1.0, "percent": -50.0, "silos": 1}
