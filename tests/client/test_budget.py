"""A silo whose line may carry only so much: what it sends, what it tells, and what it does not begin."""

from __future__ import annotations

import numpy as np
import pytest

from fl_client import memory, site, spec
from fl_server import replies
from fl_server.silos import Silo
from strategies import adapter as algebra
from strategies import budget
from strategies.codecs.codec import Key

from .test_app import Hub

FREE = "topk(0.5, least=0.02) | int8(least=4)"
HEADER = 400


@pytest.fixture
def limited(monkeypatch):
    """Give every simulated silo a line that may carry so many bytes of an update."""
    own = site.own

    def limit(most):
        monkeypatch.setattr(site, "own", lambda *a: own(*a)._replace(round_bytes=most))

    return limit


def heard(hub, reply, number=1):
    """Return the update and the note that the hub makes of a reply."""
    codec, silo = spec.codec(hub.study.codec), Silo(1, "as-1", {}, "")
    expected = algebra.layout(hub.start)
    update = replies.check(silo, reply, expected, number, codec, hub.study.seed)
    noted = replies.note(silo, reply, number)
    return update, noted | replies.chosen(codec, reply, expected)


def test_a_silo_sends_what_its_line_may_carry_and_tells_what_stayed_behind(tmp_path, limited):
    hub = Hub(tmp_path, codec=FREE)
    order, most = hub.order(), 40_000
    limited(most)
    reply = hub.ask("train", order)
    assert reply.code == ""
    assert most // 2 < sum(array.nbytes for array in reply.arrays.values()) <= most
    assert reply.bytes <= most + HEADER
    update, noted = heard(hub, reply)
    fit = budget.fit(spec.codec(FREE), algebra.size(algebra.layout(hub.start)), most)
    assert (noted["density"], noted["bits"]) == (fit.density, 4) and fit.density < 0.5
    left = memory.held(hub.home(), 1)["residual"]
    sent = algebra.flatten(update)
    share = np.linalg.norm(left) / np.linalg.norm(sent + left)
    assert noted["left_behind"] == pytest.approx(share, abs=1e-6) and 0 < share < 1


def test_what_stayed_behind_is_in_what_the_next_round_sends(tmp_path, limited):
    hub = Hub(tmp_path, codec=FREE)
    limited(40_000)
    hub.ask("train", hub.order())
    first = memory.held(hub.home(), 1)["residual"]
    reply = hub.ask("train", hub.order(1), hub.after_one())
    second = memory.held(hub.home(), 2)["residual"]
    sent = spec.codec(FREE).decode(reply.arrays, first.size, Key(hub.study.seed, 2, "as-1"))
    moved = np.abs(first) > np.abs(second) + 1e-9
    assert np.count_nonzero(sent[moved]) > 0.5 * np.count_nonzero(sent)


def test_a_silo_without_a_limit_sends_the_study_s_codec_and_tells_nothing_more(tmp_path):
    hub = Hub(tmp_path, codec=FREE)
    reply = hub.ask("train", hub.order())
    _, noted = heard(hub, reply)
    assert (noted["density"], noted["bits"]) == (0.5, 8)
    assert "left_behind" not in reply.metrics and "left_behind" not in noted


@pytest.mark.parametrize("codec", [FREE, "topk(0.5) | int8()", "bfloat16()"])
def test_a_round_that_the_line_may_not_carry_is_not_trained(codec, tmp_path, limited, monkeypatch):
    hub = Hub(tmp_path, codec=codec)
    order = hub.order()
    limited(300)
    monkeypatch.setattr("fl_client.train.fit", lambda *_: pytest.fail("it was trained"))
    assert hub.ask("train", order).code == "over_budget"


def test_of_two_passes_each_takes_half(tmp_path, limited):
    hub = Hub(tmp_path, strategy="sketch()", codec="int8(least=4)")
    order = hub.order(sketch=5)
    size = sum(array.nbytes for array in hub.ask("train", order).arrays.values())
    limited(2 * size - 10)
    assert hub.ask("train", order).arrays["0.choice"] == 4
    limited(2 * size)
    assert hub.ask("train", order).arrays["0.choice"] == 8
