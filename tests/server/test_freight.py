"""What lies on the hub's disk for a round, and when it goes."""

from __future__ import annotations

import numpy as np
import pytest

from fl_client import deltas, parcels, room, stock
from fl_client.parcels import Parcel
from fl_server import broadcast
from fl_server import run as runs
from fl_server.freight import Freight
from fl_server.simulation.faults import study as studies
from fl_server.simulation.faults.study import Shape


def adapter(number: float):
    return {"x": np.full(9, number, np.float32)}


def lying(hub):
    return {file.stem for file in (hub / "parcels").glob("*")}


def test_silos_that_are_sent_the_same_adapter_share_a_parcel(tmp_path):
    freight = Freight(tmp_path)
    first, again = freight.lay_out(adapter(1)), freight.lay_out(adapter(1))
    assert first == again
    assert lying(tmp_path) == {first.parcel.sha256}


def test_where_there_are_no_arrays_nothing_is_laid_out(tmp_path):
    assert Freight(tmp_path).lay_out({}) is None
    assert not (tmp_path / "parcels").exists()


def test_what_was_laid_out_stays_one_round_longer_for_late_silos(tmp_path):
    freight = Freight(tmp_path)
    made = []
    for number in range(4):
        made.append(freight.lay_out(adapter(number)).parcel.sha256)
        freight.settle()
        assert lying(tmp_path) == set(made[-2:])


def test_there_is_room_for_a_round_while_enough_of_the_disk_is_free(tmp_path, monkeypatch):
    assert Freight(tmp_path).roomy()
    monkeypatch.setattr(room, "free", lambda folder: room.SPARE - (folder == tmp_path))
    assert not Freight(tmp_path).roomy()


def test_where_silos_may_be_late_by_more_rounds_it_stays_as_long(tmp_path):
    freight, made = Freight(tmp_path, late=3), []
    for number in range(7):
        made.append(freight.lay_out(adapter(number)).parcel.sha256)
        freight.settle()
        assert lying(tmp_path) == set(made[-4:])


def test_an_adapter_that_is_sent_again_stays(tmp_path):
    freight = Freight(tmp_path)
    for _ in range(4):
        parcel = freight.lay_out(adapter(1)).parcel
        freight.settle()
    assert lying(tmp_path) == {parcel.sha256}


def test_what_a_killed_hub_left_goes_with_the_next_committed_round(tmp_path):
    left = Freight(tmp_path).lay_out(adapter(7)).parcel
    freight = Freight(tmp_path)
    now = freight.lay_out(adapter(8)).parcel
    assert lying(tmp_path) == {left.sha256, now.sha256}
    freight.settle()
    assert lying(tmp_path) == {now.sha256}


def test_an_update_is_collected_from_its_silo_alone_and_goes_once_its_round_is_committed(tmp_path):
    folder = tmp_path / "spool" / "clinic" / "parcels"
    parcel = parcels.keep(folder, adapter(3))
    freight = Freight(tmp_path)
    with pytest.raises(ValueError, match="is not there"):
        freight.collect("college", parcel)
    np.testing.assert_array_equal(freight.collect("clinic", parcel)["x"], adapter(3)["x"])
    assert parcels.path(folder, parcel).exists()  # until the round is durable
    freight.settle()
    assert not parcels.path(folder, parcel).exists()


def test_an_update_that_is_damaged_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not there"):
        Freight(tmp_path).collect("clinic", Parcel("0" * 64, 5))


def large(number: int):
    """Return an adapter whose hundredth numbers are of its round."""
    whole = np.random.default_rng(1).normal(0, 0.02, 40_000).astype(np.float32)
    whole[::100] = number
    return {"x": whole}


def test_the_next_adapter_of_a_kind_of_silo_has_a_delta_from_the_one_before(tmp_path):
    freight = Freight(tmp_path)
    first, other = freight.lay_out(large(1), "as"), freight.lay_out(large(2), "ne")
    again, second = freight.lay_out(large(1), "as"), freight.lay_out(large(3), "as")
    assert first == again and first.delta is None and other.delta is None
    assert second.delta.start == first.parcel
    assert second.delta.parcel.bytes < second.parcel.bytes / 40
    assert lying(tmp_path) == {
        each.sha256 for each in (first.parcel, other.parcel, second.parcel, second.delta.parcel)
    }
    (tmp_path / "silo").mkdir()
    for one in (first.parcel, second.delta.parcel):
        parcels.path(tmp_path / "silo", one).write_bytes(
            parcels.path(tmp_path / "parcels", one).read_bytes()
        )
    deltas.rebuild(tmp_path / "silo", second.parcel, second.delta)
    np.testing.assert_array_equal(
        parcels.read(tmp_path / "silo", second.parcel)["x"], large(3)["x"]
    )


def test_what_silos_of_no_kind_are_sent_and_what_is_of_another_length_has_no_delta(tmp_path):
    freight = Freight(tmp_path)
    longer = {"x": np.append(large(3)["x"], np.float32(3))}
    made = [freight.lay_out(each) for each in (large(1), large(2))]
    made += [freight.lay_out(each, "as") for each in (large(1), longer)]
    assert [each.delta for each in made] == [None] * 4


def test_a_delta_stays_as_long_as_its_adapter_and_is_offered_again_with_it(tmp_path):
    freight = Freight(tmp_path)
    start = freight.lay_out(large(1), "as").parcel
    scored = freight.lay_out(large(2), "as")
    freight.settle()
    trained = freight.lay_out(large(2), "as")
    assert trained == scored and trained.delta is not None
    freight.settle()
    assert start.sha256 in lying(tmp_path)
    freight.settle()
    assert lying(tmp_path) == {scored.parcel.sha256, scored.delta.parcel.sha256}
    freight.settle()
    assert lying(tmp_path) == set()


@pytest.mark.parametrize("ended", ["settled", "killed", "lost"])
def test_a_hub_that_no_longer_has_the_adapter_before_offers_the_whole_one(tmp_path, ended):
    freight = Freight(tmp_path)
    before = freight.lay_out(large(1), "as").parcel
    if ended == "settled":
        for _ in range(3):
            freight.settle()
    if ended == "killed":
        freight = Freight(tmp_path)
    if ended == "lost":
        parcels.path(tmp_path / "parcels", before).unlink()
    assert freight.lay_out(large(2), "as").delta is None
    assert freight.lay_out(large(3), "as").delta is not None


def test_a_silo_fetches_nothing_that_it_keeps_and_a_delta_from_what_it_keeps(tmp_path):
    freight = Freight(tmp_path)
    first, second = freight.lay_out(large(1), "as"), freight.lay_out(large(2), "as")
    whole, short = second.parcel.bytes, second.delta.parcel.bytes
    assert [freight.down("as-1", one) for one in (first, first, second, second)] == [
        whole, 0, short, 0,
    ]  # fmt: skip
    # another silo missed a round
    assert [freight.down("as-2", one) for one in (second, first)] == [whole, whole]


def test_what_a_silo_no_longer_keeps_is_fetched_again(tmp_path):
    freight = Freight(tmp_path)
    sent = [freight.lay_out(adapter(number)) for number in range(stock.KEPT + 1)]
    assert all(freight.down("as-1", one) for one in sent)
    assert not freight.down("as-1", sent[1])  # and it is the newest now
    assert freight.down("as-1", sent[0]) and freight.down("as-1", sent[2])
    assert not freight.down("as-1", sent[1])


def test_what_silos_keep_is_not_known_to_a_hub_that_starts_anew(tmp_path):
    offer = Freight(tmp_path).lay_out(adapter(1))
    for _ in range(2):
        assert Freight(tmp_path).down("as-1", offer) == offer.parcel.bytes


def test_a_studys_silos_are_offered_what_changed_since_the_round_before(tmp_path, monkeypatch):
    monkeypatch.setattr(deltas, "LEAST", 0)
    monkeypatch.setattr(deltas, "PAYS", 9)  # these adapters are of a few numbers
    grid, folder = Freight(tmp_path / "hub"), tmp_path / "run"
    run = studies.run(Shape(2, 3, "bfloat16()", studies.ALL))._replace(grid=grid, folder=folder)
    state, offers = runs.first(run), []
    for number in (1, 2):
        moved = {g: {n: x + number for n, x in a.items()} for g, a in state.adapter.items()}
        state = state._replace(round=number, adapter=moved)
        for _ in range(2):  # to be scored, and to train
            asked = broadcast.contents(run, state, training=True)
            found = {parcels.offered(dict(c.config_records["parcel"])) for _, c in asked}
            assert len(asked) == 2 and len(found) == 1
            offers += found
    assert offers[0] == offers[1] and offers[2] == offers[3]
    assert offers[0].delta is None and offers[2].delta.start == offers[0].parcel
