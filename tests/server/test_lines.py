"""What a line cost each silo, as the record has it."""

from __future__ import annotations

from fl_server import lines


def test_the_report_says_of_silos_with_a_budget_what_it_cost_them():
    sent = {"density": 0.04, "bits": 4, "up": 900, "left_behind": 0.25, "loss": 1.0}
    recorded = [
        {"silos": {"a": {"down": 3}, "b": {"down": 3}}},
        {"silos": {"a": sent, "b": {"density": 0.1, "bits": 8, "up": 4000}}},
        {
            "silos": {
                "a": sent | {"bits": 8, "up": 950, "left_behind": 0.5},
                "c": {"left_behind": 0.1, "up": 7},
            }
        },
        {"silos": {"a": sent | {"refused": "it came late", "up": 10**6}}},
    ]
    assert lines.cost(recorded) == {
        "a": {
            "density": [0.04, 0.04],
            "bits": [4, 8],
            "up": [900, 950],
            "left_behind": [0.25, 0.5],
        },
        "c": {"up": [7, 7], "left_behind": [0.1, 0.1]},
    }
