"""Updates that wait for each other on disk: they come back as they were, and take no memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from fl_server import merge
from fl_server.journal import State
from fl_server.shelf import Shelf, shelved
from strategies.adapter import flatten
from strategies.codecs.codec import chain
from strategies.combine import Parts
from strategies.fedavg import fedavg
from strategies.flexlora import flexlora
from strategies.guards.bulyan import bulyan
from strategies.guards.guard import judged
from strategies.guards.median import median
from strategies.guards.multi_krum import multi_krum
from strategies.guards.none import none
from strategies.guards.norm_clip import norm_clip
from strategies.guards.trimmed_mean import trimmed_mean
from strategies.outer.mean import mean
from strategies.strategy import Weighted
from strategies.weights.uniform import uniform

A, B = "lora_A.weight", "lora_B.weight"
ROWS = "e.trainable_tokens_delta"


def shapes(modules, rank=2, width=16):
    layers = [f"m{k:02d}." for k in range(modules)]
    return {
        f"{m}{half}": (rank, width) if half == A else (width, rank)
        for m in layers
        for half in (A, B)
    } | {ROWS: (3, width)}


def update(seed, layout):
    draw = np.random.default_rng(seed)
    return {n: (0.1 * draw.normal(size=s)).astype(np.float32) for n, s in layout.items()}


def weighted(silos, layout):
    return [Weighted(f"s{k:03d}", 1 / (k + 1), update(k, layout)) for k in range(silos)]


def test_what_is_taken_is_what_was_put_by_silo_and_cannot_be_changed(tmp_path):
    put = weighted(3, shapes(2))[::-1]
    put[0] = put[0]._replace(
        update={"a": np.zeros((0, 3), np.float32), "b": np.float32([[1], [2]])}
    )
    shelf = Shelf(tmp_path)
    for one in put:
        shelf.put(one)
    assert len(shelf) == 3 and not list(tmp_path.iterdir())
    taken = shelf.take()
    del shelf
    for one, other in zip(taken, put[::-1], strict=True):
        assert (one.silo, one.weight, one.update.keys()) == (
            other.silo,
            other.weight,
            other.update.keys(),
        )
        assert all(np.array_equal(x, other.update[n]) for n, x in one.update.items())
    with pytest.raises(ValueError, match="read-only"):
        taken[0].update[ROWS][0] = 1
    assert shelved([]) == []


START = update(99, shapes(3))


def parts(guard, strategy=None):
    return Parts(strategy or fedavg(), uniform(), mean(), chain([]), guard)


def begun(layout):
    return State(
        0, {"everyone": layout}, {"everyone": {"count": np.zeros(1, np.int64)}}, {"everyone": {}}
    )


def closed(made, updates, start=START, folder=None):
    state = begun(start)
    arrived = merge.empty(made, state, folder=folder)
    for one in updates:
        arrived = merge.add(
            arrived, made, {"everyone": sorted(start)}, one.silo, one.weight, one.update
        )
    after, said = merge.close(arrived, made, state)
    return after.adapter["everyone"], said


@pytest.mark.parametrize(
    "strategy", [fedavg("everyone", "everyone"), flexlora("everyone", "everyone")]
)
@pytest.mark.parametrize(
    "guard", [norm_clip(0.9), median(), trimmed_mean(), multi_krum(), bulyan()]
)
def test_updates_on_the_shelf_are_merged_to_the_bytes_of_updates_in_memory(
    guard, strategy, tmp_path
):
    updates, memory = weighted(7, shapes(3)), {}
    made = parts(guard, strategy)
    found, said = closed(made, updates, folder=tmp_path)
    found = flatten(found).tobytes()
    verdict = judged(guard, updates, START, memory)
    kept = [
        one._replace(update={n: x.copy() for n, x in one.update.items()}) for one in verdict.kept
    ]
    assert said == {silo: {"guard": {"everyone": why}} for silo, why in verdict.said.items()}
    assert flatten(closed(parts(none(), strategy), kept)[0]).tobytes() == found
    assert flatten(closed(made, updates[::-1], folder=tmp_path)[0]).tobytes() == found


@pytest.mark.parametrize(
    "guard", [none(), norm_clip(0.9), median(), trimmed_mean(), multi_krum(), bulyan()]
)
def test_however_many_silos_there_are_at_most_six_updates_are_in_memory(
    guard, monkeypatch, tmp_path
):
    monkeypatch.setattr("strategies.guards.guard.AT_ONCE", 1 << 12)
    monkeypatch.setattr("strategies.gauge.AT_ONCE", 1 << 12)
    monkeypatch.setattr("strategies.accumulate.BLOCK", 1 << 12)
    layout = shapes(8, 8, 1024)
    start = update(99, layout)
    whole = sum(x.nbytes for x in start.values())

    def arriving(silos):
        for k in range(silos):
            yield Weighted(f"s{k:03d}", 1.0, update(k, layout))

    peaks = []
    for silos in (8, 24):
        tracemalloc.start()
        closed(parts(guard), arriving(silos), start, tmp_path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Six, and one more that is made here as it arrives. What is known of 16 silos more is not one update.
    assert peaks[0] < 7 * whole
    assert peaks[1] - peaks[0] < whole
