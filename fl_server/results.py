"""What a study came to, as ``report.json`` holds it: by language, by silo, over all silos, and what it cost."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from fl_client.metrics import CANDIDATES
from fl_server import broadcast, lines, record, silos, summary
from fl_server.replies import Scores
from fl_server.run import Run
from strategies import adapter as algebra
from strategies.adapter import Adapter
from strategies.scope import languages

Table = dict[str, Any]
SAID = ("served", "alone_lr", "blend_share")
UNSCORED: Table = {what: {} for what in CANDIDATES} | dict.fromkeys(SAID)


def of(run: Run, scored: dict[str, Table], released: dict[str, tuple[int, Adapter]]) -> Table:
    """Return the report of a run, from what each silo that was scored reaches, and each folder's round and adapter."""
    recorded = record.lines(run.folder)
    everything = {f"{folder}/{n}": x for folder, (_, a) in released.items() for n, x in a.items()}
    silo_scores = {s.name: _silo(s, scored.get(s.name, UNSCORED)) for s in run.cohort.silos}
    spoken = _languages(run, scored, recorded)
    return {
        "schema": 1,
        "study": run.study.model_dump(exclude={"home"}),
        "seed": run.study.seed,
        "rounds_completed": recorded[-1]["round"],
        "silos": [silo.name for silo in run.cohort.silos],
        "languages": spoken,
        "silo_scores": silo_scores,
        "summary": summary.summary(silo_scores),
        "curves": {lang: row for lang, row in curves(recorded).items() if lang in spoken},
        "released_round": {folder: number for folder, (number, _) in released.items()},
        "adapters": sorted(released),
        "bytes": {way: _sum(recorded, way) for way in ("down", "up")}
        | {"dense_up": _dense(run, recorded)},
        "weights": record.weights(recorded),
        "budgets": lines.cost(recorded),
        "effort": record.effort(recorded),
        "cohort": record.cohorts(recorded),
        "wall_s": round(sum(line["seconds"] for line in recorded), 1),
        "adapter_sha256": algebra.sha256(everything),
    }


def _languages(run: Run, scored: dict[str, Table], recorded: list[record.Line]) -> Table:
    table = {}
    for lang in sorted({lang for silo in run.cohort.silos for lang in silo.counts}):
        held = [silo for silo in run.cohort.silos if lang in silo.counts]
        heard = [scored[silo.name] for silo in held if silo.name in scored]
        # A silo that held out none of its few lines of a language tells nothing of it at all.
        told = [each for each in heard if any(lang in each[what] for what in CANDIDATES)]
        own = [silo.name for silo in run.cohort.silos if silo.language == lang]
        table[lang] = {
            "name": languages()[lang].name if lang in languages() else lang,
            "silos": len(held),
            "train_bytes": sum(silo.counts[lang].bytes for silo in held),
            "before": _pooled([each["base"] for each in told], lang),
            "alone": _pooled([each["alone"] for each in told], lang),
            "after": _pooled([each["together"] for each in told], lang),
            "traffic": {way: _sum(recorded, way, own) for way in ("down", "up")},
        }
    return table


def _pooled(scores: list[Scores], lang: str) -> dict[str, float] | None:
    rows = [score[lang] for score in scores if lang in score]
    # A mean over fewer silos than another candidate's would compare unlike with unlike.
    if not rows or len(rows) < len(scores):
        return None
    found = {"bits_per_byte": sum(r["bits"] for r in rows) / sum(r["bytes"] for r in rows)}
    for name in sorted(set.intersection(*map(set, rows)) - {"bits", "bytes"}):
        found[name] = sum(row[name] for row in rows) / len(rows)
    return {name: round(value, 6) for name, value in found.items()}


def _silo(silo: silos.Silo, own: Table) -> Table:
    def overall(what: str) -> float | None:
        rows = own[what].values()
        bits = sum(r["bits"] for r in rows)
        return round(bits / sum(r["bytes"] for r in rows), 6) if rows else None

    stages = dict(zip(("before", *CANDIDATES[1:]), CANDIDATES, strict=True))
    return {
        "language": silo.language,
        **{stage: overall(what) for stage, what in stages.items()},
        "scores": {stage: _scores(own[what]) for stage, what in stages.items()},
        **{key: own[key] for key in SAID},
    }


def _scores(by_language: Table) -> dict[str, float]:
    """Return a silo's own scores of the task, each the mean over its languages."""
    names = sorted({name for row in by_language.values() for name in row} - {"bits", "bytes"})
    return {
        name: round(fmean(row[name] for row in by_language.values() if name in row), 6)
        for name in names
    }


def curves(recorded: list[record.Line]) -> dict[str, list[list[float]]]:
    """Return validation bits per byte by language, as pairs of round and value."""
    found: dict[str, list[list[float]]] = {}
    for line in recorded:
        bits: dict[str, list[float]] = {}
        for note in line["silos"].values():
            for lang, score in note.get("valid", {}).items():
                held = bits.setdefault(lang, [0.0, 0.0])
                held[0] += score["bits"]
                held[1] += score["bytes"]
        for lang, (total, size) in sorted(bits.items()):
            found.setdefault(lang, []).append([line["round"], round(total / size, 6)])
    return found


def _sum(recorded: list[record.Line], way: str, names: list[str] | None = None) -> int:
    return sum(
        int(note.get(way, 0))
        for line in recorded
        for name, note in line["silos"].items()
        if names is None or name in names
    )


def _dense(run: Run, recorded: list[record.Line]) -> int:
    """Return the bytes of all updates that were sent, had each gone up in float32."""
    there = {silo.name: silo for silo in run.cohort.silos}
    sizes: dict[tuple[int, int], int] = {}
    total = 0
    for name, number in (sent for line in recorded[1:] for sent in _updates(line)):
        # One that is gone counts as of the study's rank.
        silo = there.get(name, silos.Silo(0, name, {}, ""))
        kind = (run.ranks.get(name, 0), number)
        if kind not in sizes:
            sizes[kind] = sum(map(algebra.size, broadcast.layouts(run, number, silo)))
        total += 4 * sizes[kind]
    return total


def _updates(line: record.Line) -> list[tuple[str, int]]:
    """Return of each update that came in a round its silo, and the round that it was trained in."""
    if "arrivals" in line:
        # A silo may come more than once in a commit; of one that failed no seconds are noted.
        came = [one for one in line["arrivals"] if "seconds" in one]
        return [(one["silo"], line["round"] - one["staleness"]) for one in came]
    return [(name, line["round"]) for name, note in line["silos"].items() if note.get("up")]
