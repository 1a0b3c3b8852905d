"""What lies on the hub's disk for a round, and when it goes."""

from __future__ import annotations

import numpy as np
import pytest

from fl_client import parcels
from fl_client.parcels import Parcel
from fl_server.freight import Freight


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
