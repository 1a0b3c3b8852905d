"""What must hold after every trial, C1 to C7; each gives in words what does not.

C1 an update that the hub acknowledged is there, and counts once. C2 committed rounds never go back. C3 the last
adapter, and what silos remember, is that of the same study without faults in which the same updates count. C4 a step is
done again only by a silo that ended before that very update was durable, back to its last checkpoint. C5 the study
ends, and no silo that lives is silent for 120 s. C6 a silo's record holds every byte that left it. C7 what was to
happen did, or found nobody to happen to. That no real process is silent, and that bytes on a real wire are those of the
record, is proved by the tests of whole federations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from fl_server import record, visits
from fl_server.simulation.faults import study as studies
from fl_server.simulation.faults import worker
from fl_server.simulation.faults.outcome import HUB, Trial
from fl_server.simulation.faults.plain import Who, ideal, replayed
from strategies import adapter as algebra

SILENT_S = 120.0


def violations(trial: Trial) -> list[str]:
    """Return all that does not hold."""
    if trial.state is None:
        return [
            f"C5 the study does not end; after {trial.seconds:.0f} s it is at round {_last(trial)}"
        ]
    checks = (_counted, _in_turn, _forward, _same, _once, _heard, _recorded, _happened)
    return [said for check in checks for said in check(trial)]


def _last(trial: Trial) -> int:
    return max((line["round"] for line in trial.lines), default=-1)


def _flips(trial: Trial) -> int:
    return trial.fired["flip"]


def _counted(trial: Trial) -> Iterator[str]:
    if not _flips(trial):
        yield from (f"C1 {said}" for said in trial.gone)
    if not _whole(trial):
        yield f"C1 the record holds rounds {[line['round'] for line in trial.lines]}"
    schedule = studies.run(trial.shape).schedule
    for line in trial.lines[1:]:
        counted = [silo for silo, note in line["silos"].items() if "weight" in note]
        if schedule.buffer is None and not schedule.enough(len(line["silos"]), len(counted)):
            yield f"C1 round {line['round']} counts {counted} alone"
        if any("codec_reset" in note for note in line["silos"].values()) and not _flips(trial):
            yield f"C1 a silo lost what its codec left out, in round {line['round']}"


def _whole(trial: Trial) -> bool:
    """Return whether the record holds each round once."""
    return [line["round"] for line in trial.lines] == list(range(trial.shape.rounds + 1))


def _in_turn(trial: Trial) -> Iterator[str]:
    """Say where a silo's trainings did not come one after the other, each once, in a study without rounds."""
    for name in trial.shape.names if _buffered(trial) else ():
        came = [one["visit"] for one in visits.arrivals(trial.lines) if one["silo"] == name]
        if came != list(range(1, len(came) + 1)):
            yield f"C1 of {name} the record holds trainings {came}"


def _buffered(trial: Trial) -> bool:
    return trial.shape.schedule == studies.BUFFERED


def _forward(trial: Trial) -> Iterator[str]:
    yield from (f"C2 {said}" for said in trial.back)


def _same(trial: Trial) -> Iterator[str]:
    if trial.state is None or not _whole(trial):
        return
    if _buffered(trial):
        wanted = replayed(trial.shape, trial.lines)
    else:
        wanted = ideal(trial.shape, tuple(_who(line) for line in trial.lines[1:]))
    for group, adapter in wanted.state.adapter.items():
        if algebra.sha256(trial.state.adapter[group]) != algebra.sha256(adapter):
            yield "C3 the last adapter is another"
    if trial.shape.schedule == studies.ALL:
        # A silo that was left out of a round may have trained in it, and keeps what is private.
        always = set.intersection(*[set(line["silos"]) for line in trial.lines])
        for silo in sorted(always):
            own, held = trial.remembered[silo], wanted.remembered[silo]
            if own.keys() != held.keys() or algebra.sha256(own) != algebra.sha256(held):
                yield f"C3 {silo} remembers something else"


def _who(line: record.Line) -> Who:
    counted = {silo for silo, note in line["silos"].items() if "weight" in note}
    return frozenset(line["silos"]), frozenset(counted)


def _once(trial: Trial) -> Iterator[str]:
    for name, silo in trial.silos.items():
        again = Counter[tuple[int, str]]()
        for step, times in silo.seen.steps.items():
            again[step.round, step.base] += times - 1
        over = {at: n - worker.INTERVAL * silo.seen.broken[at] for at, n in again.items()}
        # Where a hub comes back to other silos, a codec that tracks begins anew, and sketches are as wide as all who
        # are there need: the round in work is another one.
        parts = studies.parts(trial.shape)
        anew = trial.changes * (parts.codec.tracks or parts.strategy.passes is not None)
        if sum(n for n in over.values() if n > 0) > studies.STEPS * (_back(trial) + anew):
            yield f"C4 {name} did steps again: {+again}, and ended before they were durable: {silo.seen.broken}"


def _back(trial: Trial) -> int:
    """Return how many trainings of one silo flipped bits may have to be done again.

    Each may take a commit back: what it held, and what has been done since. With rounds these are one training each. In
    a buffer all may be one silo's: as many as a commit takes, less than that for the next one, and one in work.
    """
    buffer = studies.run(trial.shape).schedule.buffer
    return _flips(trial) * (2 if buffer is None else 2 * buffer.size)


def _heard(trial: Trial) -> Iterator[str]:
    for name, silo in trial.silos.items():
        silent = silo.seen.closed(trial.seconds).silent
        if silent > SILENT_S:
            yield f"C5 {name} lived for {silent:.0f} s without a word"


def _recorded(trial: Trial) -> Iterator[str]:
    for name, silo in trial.silos.items():
        broken = len(silo.kills) + silo.disk.fired.count("full")
        more = trial.audited[name] - silo.sent
        if not 0 <= more <= silo.longest * broken:
            yield f"C6 {name} sent {silo.sent} bytes and recorded {trial.audited[name]}"


def _happened(trial: Trial) -> Iterator[str]:
    for name, blows in trial.faults.blows.items():
        due = [at for at in blows if at <= trial.operations[name]]
        disk = trial.silos[name].disk if name != HUB else trial.hub_disk
        if len(disk.blows) > len(blows) - len(due):
            yield f"C7 a fault on the disk of {name} did not happen"
    for what, drawn in (("kills", trial.faults.kills), ("flips", trial.faults.flips)):
        came = sum(at <= trial.seconds for at in drawn)
        if trial.met[what] + trial.met[f"moot {what}"] != came:
            yield f"C7 of {came} {what} some did not happen: {trial.met}"
    if any(at <= trial.seconds for at in trial.faults.jumps) and not trial.fired["clock"]:
        yield "C7 no clock jumped"
