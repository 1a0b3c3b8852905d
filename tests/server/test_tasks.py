"""The tasks ``instruct`` and ``classify`` in whole studies: text of their own, scores by language and over silos."""

from __future__ import annotations

import json

import pytest

from fl_client import site
from fl_client.config import ConfigError
from fl_server.summary import summary

WORDS = {"as": ("ভাল", "বেয়া"), "ne": ("राम्रो", "नराम्रो")}


def name(number):
    """Return letters that differ from number to number."""
    return "".join(chr(97 + int(digit)) for digit in f"{number * 7919:07d}")


def written(folder, make):
    """Write forty rows of each language and return the folder."""
    for lang, words in WORDS.items():
        (folder / lang).mkdir(parents=True)
        rows = (make(f"{words[n % 2]} {name(n)}", n) for n in range(40))
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / lang / "rows.jsonl").write_text(text)
    return str(folder)


def conversation(said, n):
    if n % 3:
        return {"prompt": f"{n}?", "response": said}
    turns = [("user", "a"), ("assistant", said), ("user", "b"), ("assistant", f"{said} {n}")]
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def test_a_study_of_conversations_reports_chrf_of_the_answers(small, simulate, tmp_path):
    study = small(
        tmp_path / "run",
        task="instruct()",
        rounds=1,
        evaluate__answers=2,
        evaluate__answer_tokens=8,
        simulation__silos=2,
        simulation__data=written(tmp_path / "data", conversation),
    )
    report = simulate(study)
    for lang in ("as", "ne"):
        row = report["languages"][lang]
        assert row["after"]["bits_per_byte"] < row["before"]["bits_per_byte"]
        assert 0 <= row["after"]["chrf++"] <= 100
    held = site.simulated(study)[0].train
    assert report["languages"]["as"]["train_bytes"] == sum(len(e.learned.encode()) for e in held)
    assert any(len(e.learned) > len(e.text) for e in held)


def test_a_study_of_labels_learns_them_and_reports_accuracy_and_f1(small, simulate, tmp_path):
    labels = "good,bad"
    study = small(
        tmp_path / "run",
        task=f"classify('{labels}')",
        rounds=2,
        alone__enabled=True,
        alone__rates="0.01",
        train__steps=6,
        simulation__silos=2,
        simulation__data=written(
            tmp_path / "data", lambda said, n: {"text": said, "label": labels.split(",")[n % 2]}
        ),
    )
    report = simulate(study)
    for row in report["languages"].values():
        for stage in ("before", "alone", "after"):
            assert set(row[stage]) == {"bits_per_byte", "accuracy", "macro_f1"}
            assert 0 <= row[stage]["macro_f1"] <= 100
        assert row["after"]["bits_per_byte"] < row["before"]["bits_per_byte"]
    for own in report["silo_scores"].values():
        assert set(own["scores"]["together"]) == {"accuracy", "macro_f1"}
    assert report["summary"] == summary(report["silo_scores"])
    assert set(report["summary"]["together"]) == {"bits_per_byte", "accuracy", "macro_f1"}
    assert report["summary"]["gap"]["bits_per_byte"] == pytest.approx(
        sum(s["together"] - s["alone"] for s in report["silo_scores"].values()) / 2, abs=1e-6
    )


@pytest.mark.parametrize(
    ("task", "row", "words"),
    [
        ("instruct()", {"text": "a"}, ["row 1 has no 'messages' or 'prompt' with 'response'"]),
        ("classify()", {"text": "a"}, ["row 1 has no 'text' with 'label'; it has text"]),
        (
            "classify('good,bad')",
            {"text": "a", "label": "fine"},
            ["row 1: label='fine' is unknown", "good, bad", "correct the row"],
        ),
        (
            "instruct()",
            {"messages": [{"role": "human", "content": "a"}]},
            ["row 1: its message 1 has role='human'", "system, user, assistant"],
        ),
    ],
)
def test_rows_that_do_not_serve_a_task_are_named_before_anything_is_trained(
    task, row, words, small, tmp_path
):
    (tmp_path / "as").mkdir()
    (tmp_path / "as" / "rows.jsonl").write_text(json.dumps(row) + "\n")
    study = small(
        tmp_path / "run", task=task, simulation__data=str(tmp_path), simulation__languages="as"
    )
    with pytest.raises(ConfigError) as caught:
        site.simulated(study)
    for word in (str(tmp_path / "as" / "rows.jsonl"), *words):
        assert word in str(caught.value)
