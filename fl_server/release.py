"""The end of a study: adapters are written, every silo scores the best round on its test text, the report is made."""

from __future__ import annotations

import json
import logging
from typing import Any

from fl_client import export, messages
from fl_client.memory import write_whole
from fl_client.messages import Content
from fl_server import broadcast, config, journal, record, replies, report, results, silos
from fl_server import cohort as cohorts
from fl_server.replies import Refused
from fl_server.run import RoundFailed, Run
from fl_server.silos import Silo
from strategies import adapter as algebra
from strategies.adapter import Adapter

LOG = logging.getLogger("bhasha_fl.hub")
Table = dict[str, Any]


def release(run: Run, state: journal.State) -> Table:
    """Write ``adapter/``, have silos scored, write the report of those that were; return it.

    Raises ``RoundFailed`` where none was: the adapters are there all the same.
    """
    released = adapters(run, state)
    contents = broadcast.contents(run, state, final=True)
    adapt(run, contents)
    made = results.of(run, scored(run, contents), released)
    write_whole(run.folder / "report.json", json.dumps(made, indent=1, ensure_ascii=False).encode())
    write_whole(run.folder / "report.html", report.html(made).encode())
    return made


def adapt(run: Run, contents: list[tuple[Silo, Content]]) -> None:
    """Have every silo train what is released on its own text, where the study adapts; the result stays there."""
    if not config.adapts(run.study, run.parts.strategy):
        return
    # At each rate it may take as many steps as all rounds did, and so as long as they may; twice that with teachers.
    rail = run.study.alone
    many = run.study.rounds * (len(rail.adapted()) + 2 * len(rail.taught()))
    closes = silos.after_last(run.schedule.scored, many)
    for silo, reply in silos.ask(run.grid, "train.alone", contents, closes):
        if reply.code:
            LOG.warning("%s did not adapt: %s", silo.name, messages.CODES[reply.code])


def scored(run: Run, contents: list[tuple[Silo, Content]]) -> dict[str, Table]:
    """Return what silos reach on their test text, by those that tell; raises ``RoundFailed`` where none does."""
    found: dict[str, Table] = {}
    notes: dict[str, dict[str, Any]] = {}
    for silo, reply in silos.ask(
        run.grid, "evaluate", contents, silos.after_last(run.schedule.scored)
    ):
        try:
            found[silo.name] = replies.final(reply)
        except Refused as error:
            notes[silo.name] = {"refused": str(error)}
    heard = notes | {name: {} for name in found}
    why = "; ".join(replies.unheard([silo for silo, _ in contents], heard))
    if not found:
        raise RoundFailed(
            f"no silo could be scored; {why}. The adapters are in {run.folder / 'adapter'}",
            f"Ask again for their scores with --resume {run.folder}",
        )
    if why:
        LOG.warning("the report lacks silos; %s", why)
    return found


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
