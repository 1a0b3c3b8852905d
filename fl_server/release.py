"""The end of a study: every silo scores the best round on its test text, adapters are written, the report is made."""

from __future__ import annotations

import json
import logging
from statistics import fmean
from typing import Any

from fl_client import export, messages, metrics
from fl_client.memory import write_whole
from fl_client.messages import Content
from fl_server import broadcast, journal, lines, record, report, silos, summary
from fl_server import cohort as cohorts
from fl_server.run import RoundFailed, Run
from fl_server.silos import Silo
from strategies import adapter as algebra
from strategies.adapter import Adapter
from strategies.scope import languages

LOG = logging.getLogger("bhasha_fl.hub")
Table = dict[str, Any]


CANDIDATES = ("base", "alone", "together", "adapted", "blend")  # what a silo may serve


def release(run: Run, state: journal.State) -> Table:
    """Score, write ``adapter/`` and the report; return the report."""
    contents = broadcast.contents(run, state, final=True)
    if run.study.alone.enabled and run.study.alone.adapt and run.parts.strategy.domain != "core":
        adapt(run, contents)
    scored: dict[str, Table] = {}
    for silo, reply in silos.ask(run.grid, "evaluate", contents):
        if reply.code:
            raise RoundFailed(f"{silo.name} could not be scored: {messages.CODES[reply.code]}")
        own = {what: metrics.by_language(reply.metrics, what) for what in CANDIDATES}
        own |= {key: reply.facts[key] for key in ("served", "alone_lr")}
        scored[silo.name] = own | {"blend_share": reply.metrics.get("blend_share")}
    released = adapters(run, state)
    made = _report(run, scored, released)
    write_whole(run.folder / "report.json", json.dumps(made, indent=1, ensure_ascii=False).encode())
    write_whole(run.folder / "report.html", report.html(made).encode())
    return made


def adapt(run: Run, contents: list[tuple[Silo, Content]]) -> None:
    """Have every silo train what is released on its own text; the result stays there."""
    for silo, reply in silos.ask(run.grid, "train.alone", contents):
        if reply.code:
            LOG.warning("%s did not adapt: %s", silo.name, messages.CODES[reply.code])


def adapters(run: Run, state: journal.State) -> dict[str, tuple[int, Adapter]]:
    """Write the best round of each narrowest group as a PEFT folder; return round and adapter by folder."""
    recorded, strategy, found = record.lines(run.folder), run.parts.strategy, {}
    for members in cohorts.components(run.cohort):
        kept = broadcast.released_from(run, state, record.best(recorded, members))
        groups = broadcast.groups(strategy, kept)
        for silo in (s for s in run.cohort.silos if s.name in members):
            name = cohorts.folder_of(run.cohort, silo, strategy)
            adapter = cohorts.adapter_of(run.cohort, silo, groups, strategy)
            found[name] = (kept.round, algebra.trained(adapter))
    for name, (_, adapter) in found.items():
        export.write(run.folder / "adapter" / name, adapter, run.peft_config, run.study.model.base)
    return found


def _report(run: Run, scored: dict[str, Table], released: dict[str, tuple[int, Adapter]]) -> Table:
    recorded = record.lines(run.folder)
    everything = {f"{folder}/{n}": x for folder, (_, a) in released.items() for n, x in a.items()}
    each = (broadcast.layouts(run, 1, silo) for silo in run.cohort.silos)
    dense = 4 * sum(algebra.size(sent) for both in each for sent in both) * (len(recorded) - 1)
    silo_scores = {s.name: _silo(s, scored[s.name]) for s in run.cohort.silos}
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
        "bytes": {"down": _sum(recorded, "down"), "up": _sum(recorded, "up"), "dense_up": dense},
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
        own = [silo.name for silo in run.cohort.silos if silo.language == lang]
        table[lang] = {
            "name": languages()[lang].name if lang in languages() else lang,
            "silos": len(held),
            "train_bytes": sum(silo.counts[lang].bytes for silo in held),
            "before": _pooled([scored[s.name]["base"] for s in held], lang),
            "alone": _pooled([scored[s.name]["alone"] for s in held], lang),
            "after": _pooled([scored[s.name]["together"] for s in held], lang),
            "traffic": {way: _sum(recorded, way, own) for way in ("down", "up")},
        }
    return table


def _pooled(scores: list[Table], lang: str) -> dict[str, float] | None:
    rows = [score[lang] for score in scores if lang in score]
    if not rows or len(rows) < len(
        scores
    ):  # a mean over fewer silos would compare unlike with unlike
        return None
    found = {"bits_per_byte": sum(r["bits"] for r in rows) / sum(r["bytes"] for r in rows)}
    for name in sorted(set(rows[0]) - {"bits", "bytes"}):
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
        **{key: own[key] for key in ("served", "alone_lr", "blend_share")},
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
