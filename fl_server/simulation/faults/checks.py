"""What must hold after every trial, C1 to C7; each gives in words what does not.

C1 an update that the hub acknowledged is there, and counts once. C2 committed rounds never go back. C3 the last
adapter, and what silos remember, is that of the same study without faults in which the same updates count. C4 a step is
done again only by a silo that was killed before its update was durable. C5 the study ends. C6 a silo's record holds
every byte that left it. C7 what was to happen did. That no real process is silent for 120 s, and that bytes on a real
wire are those of the record, is proved by the tests of whole federations.
"""

from __future__ import annotations

from collections.abc import Iterator

from fl_server.simulation.faults import study as studies
from fl_server.simulation.faults import worker
from fl_server.simulation.faults.outcome import HUB, Trial
from fl_server.simulation.faults.trial import ideal
from strategies import adapter as algebra


def violations(trial: Trial) -> list[str]:
    """Return all that does not hold."""
    if trial.state is None:
        return [
            f"C5 the study does not end; after {trial.seconds:.0f} s it is at round {_last(trial)}"
        ]
    checks = (_counted, _forward, _same, _once, _recorded, _happened)
    return [said for check in checks for said in check(trial)]


def _last(trial: Trial) -> int:
    return max((line["round"] for line in trial.lines), default=-1)


def _flips(trial: Trial) -> int:
    return trial.fired["flip"]


def _counted(trial: Trial) -> Iterator[str]:
    if not _flips(trial):
        yield from (f"C1 {said}" for said in trial.gone)
    numbers = [line["round"] for line in trial.lines]
    if numbers != list(range(trial.shape.rounds + 1)):
        yield f"C1 the record holds rounds {numbers}"
    for line in trial.lines[1:]:
        counted = [silo for silo, note in line["silos"].items() if "weight" in note]
        if len(counted) < trial.shape.quorum * trial.shape.silos:
            yield f"C1 round {line['round']} counts {counted} alone"
        if any("codec_reset" in note for note in line["silos"].values()) and not _flips(trial):
            yield f"C1 a silo lost what its codec left out, in round {line['round']}"


def _forward(trial: Trial) -> Iterator[str]:
    yield from (f"C2 {said}" for said in trial.back)


def _same(trial: Trial) -> Iterator[str]:
    absent = frozenset(
        (silo, line["round"])
        for line in trial.lines[1:]
        for silo in trial.shape.names
        if "weight" not in line["silos"].get(silo, {})
    )
    wanted = ideal(trial.shape, absent)
    if trial.state is None or wanted.state is None:
        return
    for group, adapter in wanted.state.adapter.items():
        if algebra.sha256(trial.state.adapter[group]) != algebra.sha256(adapter):
            yield "C3 the last adapter is another"
    if trial.shape.quorum == 1:
        for silo, held in wanted.remembered.items():
            own = trial.remembered[silo]
            if own.keys() != held.keys() or algebra.sha256(own) != algebra.sha256(held):
                yield f"C3 {silo} remembers something else"


def _once(trial: Trial) -> Iterator[str]:
    for name, silo in trial.silos.items():
        again = sum(silo.steps.values()) - len(silo.steps)
        broken = len(silo.kills) + silo.disk.fired.count("full")
        # A flipped bit may take a committed round back: that one is trained again, and the one in work.
        excused = worker.INTERVAL * broken + 2 * studies.STEPS * _flips(trial)
        if again > excused:
            yield f"C4 {name} did {again} steps again, and was killed {broken} times"


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
