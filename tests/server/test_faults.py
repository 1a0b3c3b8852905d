"""Studies through drawn faults: nothing acknowledged is lost or counted twice, and seeded bugs do not stay hidden."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from random import Random

import numpy as np
import pytest

from fl_client import audit, deltas, memory, parcels
from fl_client.gateway import download
from fl_client.parcels import Parcel
from fl_server import federation, journal, record
from fl_server.gateway import parcels as arrivals
from fl_server.simulation import lot
from fl_server.simulation.faults import checks, draw, trial
from fl_server.simulation.faults import study as studies
from fl_server.simulation.faults.bugs import BUGS, planted
from fl_server.simulation.faults.calls import interposed
from fl_server.simulation.faults.disk import Blow, Disk, Killed
from fl_server.simulation.faults.network import Network
from fl_server.simulation.faults.outcome import Faults

pytestmark = pytest.mark.sim
SAMPLE, BOUND = range(60), 100
AGAIN = "python -m benchmarks.faults --schedules 1 --no-bugs --dry --seed"


@pytest.fixture(autouse=True)
def _identified():
    lot.identify()


def test_studies_live_through_drawn_faults_of_every_kind():
    fired = Counter()
    for seed in SAMPLE:
        found = draw.tried(seed)
        assert not checks.violations(found), f"{AGAIN} {seed}"
        fired += found.fired
    assert set(+fired) == draw.EVERY


def test_studies_whose_adapters_come_as_deltas_live_through_the_same(monkeypatch):
    monkeypatch.setattr(deltas, "LEAST", 0)
    monkeypatch.setattr(deltas, "PAYS", 9)  # what is said of these adapters is longer than they are
    monkeypatch.setattr(download, "shorter", lambda trip, delta: True)
    made, rebuild = [], deltas.rebuild
    monkeypatch.setattr(deltas, "rebuild", lambda *of: made.append(of) or rebuild(*of))
    for seed in SAMPLE[:10]:
        assert not checks.violations(draw.tried(seed)), f"{AGAIN} {seed}"
    assert made


def test_a_trial_is_the_same_whenever_it_is_played():
    one, other = draw.tried(3), draw.tried(3)
    assert (one.lines, one.operations, one.fired) == (other.lines, other.operations, other.fired)
    assert one.seconds == other.seconds


@pytest.mark.parametrize("name", BUGS)
def test_a_seeded_bug_is_found(name):
    for seed in range(BOUND):
        with planted(BUGS[name]):
            found = draw.tried(seed)
        if checks.violations(found):
            return
    pytest.fail(f"no trial of {BOUND} shows that {name}")


@pytest.fixture
def disk(tmp_path):
    made = Disk(tmp_path / "machine", Random(1), {})
    network = Network(Random(1), Faults().weather, {})
    with interposed([made], network):
        yield made


def test_what_was_not_synced_may_be_lost_and_what_was_is_kept(disk):
    ends = set()
    for number in range(40):
        kept, lost = disk.folder / f"kept-{number}", disk.folder / f"lost-{number}"
        with kept.open("wb") as stream:
            stream.write(b"whole")
            stream.flush()
            disk.synced(str(kept))
        disk.synced(str(disk.folder))
        lost.write_bytes(b"whole")
        with pytest.raises(Killed):
            disk.die("power")
        disk.revive()
        assert kept.read_bytes() == b"whole"
        ends.add(lost.read_bytes() if lost.exists() else None)
    assert {None, b"", b"whole"} <= ends


def test_files_of_a_folder_that_was_removed_whole_may_come_back(disk):
    ends = set()
    for number in range(40):
        folder = disk.folder / f"folder-{number}"
        folder.mkdir()
        (folder / "begun").write_bytes(b"whole")
        (folder / "begun").replace(folder / "held")
        shutil.rmtree(folder)
        with pytest.raises(Killed):
            disk.die("power")
        disk.revive()
        ends.add(tuple(sorted(path.name for path in folder.glob("*"))))
    assert ends == {(), ("begun",), ("held",)}


def test_a_silo_killed_before_its_record_has_a_durable_name_loses_no_line_of_it(disk):
    audit.check(disk.folder)
    # the line is opened, written and synced, its folder is not
    disk.blows = {disk.operations + 4: Blow("kill")}
    with pytest.raises(Killed):
        audit.append(disk.folder, audit.entry("/first", b"12345"))
    disk.revive()
    audit.append(disk.folder, audit.entry("/second", b"12345"))
    with pytest.raises(Killed):
        disk.die("power")
    disk.revive()
    assert [entry.kind for entry in audit.read(disk.folder)] == ["/first", "/second"]


@pytest.mark.parametrize("rewound", [True, False])
def test_a_round_that_a_killed_hub_left_is_durable_once_the_record_is_rewound(rewound, disk):
    """A killed process left the round in place and its folder unsynced; silos are asked after the record is rewound."""
    state = journal.State(0, {"everyone": {"l": np.ones(3, np.float32)}}, {}, {}, {})
    begun = disk.operations
    journal.commit(disk.folder / "undisturbed", state, set())
    last, there = disk.operations - begun, []
    for number in range(20):
        run = disk.folder / f"run-{number}"
        record.append(run, {"round": 0})
        disk.blows = {disk.operations + last: Blow("kill")}
        with pytest.raises(Killed):
            journal.commit(run / "journal", state, set())
        disk.revive()
        assert journal.recall(run / "journal") is not None
        if rewound:
            record.rewind(run, 0)
        with pytest.raises(Killed):
            disk.die("power")
        disk.revive()
        there.append(journal.recall(run / "journal") is not None)
    assert all(there) == rewound


@pytest.mark.parametrize("told", [True, False])
def test_an_update_that_a_killed_gateway_left_is_durable_once_its_silo_is_told(told, disk):
    content = b"an update"
    parcel = Parcel(hashlib.sha256(content).hexdigest(), len(content))

    def brought(folder):
        folder.mkdir()
        file = parcels.path(folder, parcel)
        with memory.part(file).open("ab", buffering=0) as stream:
            stream.write(content)
        return file

    file, begun = brought(disk.folder / "undisturbed"), disk.operations
    assert arrivals.kept(file, parcel) == len(content)
    last, there = disk.operations - begun, []
    for number in range(20):
        file = brought(disk.folder / f"update-{number}")
        disk.blows = {disk.operations + last: Blow("kill")}
        with pytest.raises(Killed):
            arrivals.kept(file, parcel)
        disk.revive()
        assert file.exists() and arrivals.standing(file, parcel, 1 << 30) is None
        if told:
            assert arrivals.kept(file, parcel) == len(content)
        with pytest.raises(Killed):
            disk.die("power")
        disk.revive()
        there.append(parcels.whole(file, parcel))
    assert all(there) == told


def test_a_kill_in_a_write_leaves_its_beginning_and_nothing_is_written_after_it(disk):
    disk.blows[3] = Blow("kill")
    (disk.folder / "before").write_bytes(b"there")
    disk.blows = {disk.operations + 2: Blow("kill")}
    with pytest.raises(Killed):
        (disk.folder / "torn").write_bytes(b"12345678")
    with pytest.raises(Killed):
        (disk.folder / "later").write_bytes(b"no")
    assert (disk.folder / "torn").read_bytes() == b"1234"
    assert not (disk.folder / "later").exists()


@pytest.mark.parametrize("schedule", [studies.ALL, studies.HALF, studies.BUFFERED])
def test_a_silo_that_is_dark_as_a_study_begins_takes_part_from_when_it_comes(schedule):
    shape = studies.Shape(3, 4, "topk(0.5) | int8()", schedule)
    found = trial.play(shape, Faults(dark={"bela": federation.JOIN_S + 30}), 1)
    assert not checks.violations(found) and found.fired["dark"] == 1
    began, *_, last = [line["silos"].keys() for line in found.lines]
    assert began == {"anna", "chandra"} and last == {*shape.names}
