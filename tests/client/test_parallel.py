"""Training together: as specs, by the plain arithmetic of each way, and by two ranks for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fl_client import gauge, model, optimizer, ranks, spec, train
from fl_client.config import ConfigError
from fl_client.parallel.parallel import Team
from fl_client.spec import SpecError

from . import team

WAYS = ("ddp()", "fsdp()", "local_sgd(sync_every=4)")
LOSSES, TENSORS = 1e-4, 1e-3  # how far two ranks may be from one


pytestmark = pytest.mark.usefixtures("one_thread")


def test_ways_of_training_together_are_named_without_torch():
    code = (
        "import sys; from fl_client import spec\n"
        f"for text in {WAYS}: spec.build(text, 'parallel')\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_ways_are_those_of_the_folder():
    assert set(spec.factories("parallel")) == {"ddp", "fsdp", "local_sgd"}


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("local_sgd(sync_every=0)", "sync_every=0"),
        ("local_sgd(lr=0)", "lr=0"),
        ("local_sgd(momentum=1)", "momentum=1"),
        ("local_sgd(momentum=-0.1)", "momentum=-0.1"),
        ("local_sgd(sync_every=2.5)", "sync_every=2.5"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(text, given):
    with pytest.raises(SpecError, match=given.replace(".", r"\.")):
        spec.build(text, "parallel")


def joined(text: str, made, options=team.EXACT) -> tuple[Team, optimizer.Optimizer]:
    used = optimizer.start(made, {})
    way = spec.build(text, "parallel")
    return way.join(made, used, options, gauge.Gauge(made.device)), used


@pytest.mark.parametrize("text", WAYS)
def test_one_rank_alone_works_on_the_model_itself(text, made):
    own, _ = joined(text, made)
    assert own == Team(made.model)


@pytest.mark.parametrize("text", ["local_sgd(lr=0.9)", "local_sgd(momentum=0.1)"])
def test_an_outer_step_is_taken_by_one_rank_too(text, made):
    own, _ = joined(text, made)
    assert own.apart
    assert own.due(8, False)
    assert own.due(3, True)
    assert not own.due(3, False)


def test_the_outer_step_is_that_of_nesterov(made):
    """Three meetings by hand, against the outer optimizer that the hub has."""
    from strategies.outer.nesterov import nesterov

    model.write(made, {})
    own, used = joined("local_sgd(sync_every=1, lr=0.7, momentum=0.5)", made)
    outer = nesterov(lr=0.7, momentum=0.5)
    wanted = {
        n: p.detach().numpy().copy() for n, p in zip(used.names, used.parameters, strict=True)
    }
    memory = outer.init(wanted)
    draw = np.random.default_rng(0)
    for _ in range(3):
        moved = {n: draw.standard_normal(x.shape).astype(np.float32) for n, x in wanted.items()}
        for name, parameter in zip(used.names, used.parameters, strict=True):
            parameter.data.add_(torch.from_numpy(moved[name]))
        own.meet()
        wanted, memory = outer.step(wanted, moved, memory)
        for name, parameter in zip(used.names, used.parameters, strict=True):
            assert np.allclose(parameter.detach().numpy(), wanted[name], atol=1e-5)
    model.write(made, {})


def test_a_base_that_was_not_loaded_for_it_is_not_trained_in_shards(made, monkeypatch):
    monkeypatch.setattr(ranks, "world", lambda: 2)
    with pytest.raises(ConfigError, match="needs a base that was loaded for it"):
        joined("fsdp()", made)


def start(folder: Path, names: tuple[str, ...]) -> None:
    """Run the cases on two ranks of this machine, over loopback."""
    environment = os.environ | {
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
        ranks.STORE: str(folder / "store"),
        ranks.HEAD: "1",
        "PYTHONPATH": str(Path(__file__).parent.parent.parent),
    }
    command = [sys.executable, team.__file__, str(folder), *names]
    running = [
        subprocess.Popen(
            command,
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    for process in running:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said.decode()


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """Return the folder in which two ranks have left what came of every case."""
    folder = tmp_path_factory.mktemp("two")
    start(folder, tuple(team.CASES))
    return folder


def told(folder: Path, name: str) -> tuple[dict[str, np.ndarray], dict]:
    facts = json.loads((folder / f"{name}.json").read_text())
    return load_file(folder / f"{name}.safetensors"), facts


def alone(options, name: str) -> tuple[dict[str, np.ndarray], train.Fit]:
    made, used, fitted = team.run(options, slices=name in team.MERGED, taught=name in team.TAUGHT)
    return model.read(made) | optimizer.moments(used), fitted


TOGETHER = ["ddp", "micro", "fsdp", "fsdp-micro", "few", "fsdp-merged", *sorted(team.TAUGHT)]


@pytest.mark.parametrize("name", TOGETHER)
def test_two_ranks_give_the_losses_and_the_adapter_of_one(name, two):
    arrays, facts = told(two, name)
    options = team.EXACT.model_copy(update=team.CASES[name] | {"parallel": "ddp()"})
    wanted, fitted = alone(options, name)
    assert np.allclose(facts["losses"], fitted.losses, rtol=0, atol=LOSSES)
    assert np.isclose(facts["loss"], fitted.loss, rtol=0, atol=LOSSES)
    assert arrays.keys() == wanted.keys()
    assert all(np.allclose(arrays[n], wanted[n], rtol=0, atol=TENSORS) for n in wanted)


@pytest.mark.parametrize("name", sorted(team.CORED))
def test_two_ranks_tell_the_sketches_of_one_and_train_the_cores_of_one(name, two):
    arrays, facts = told(two, name)
    made, used, fitted, sketches = team.cored(team.EXACT)
    assert np.allclose(facts["losses"], fitted.losses, rtol=0, atol=LOSSES)
    wanted = model.read(made) | optimizer.moments(used) | sketches
    assert arrays.keys() == wanted.keys()
    for n, x in wanted.items():
        assert np.allclose(arrays[n], x, rtol=0, atol=TENSORS * max(1, np.abs(x).max())), n
    assert any(n.endswith(".core") and x.any() for n, x in arrays.items())


@pytest.mark.parametrize("name", team.CASES)
def test_all_ranks_end_with_the_same_adapter_and_moments(name, two):
    _, facts = told(two, name)
    assert len(facts["sums"]) == 2
    assert facts["sums"][0] == facts["sums"][1]


@pytest.mark.parametrize("name", team.CASES)
def test_every_rank_says_how_fast_it_was(name, two):
    speed = told(two, name)[1]["speed"]
    for rank in range(2):
        assert 0 < speed[f"efficiency/{rank}"] < 1
        parts = speed[f"compute_s/{rank}"], speed[f"communication_s/{rank}"]
        assert np.isclose(speed[f"efficiency/{rank}"], parts[0] / sum(parts))
    assert speed["tokens_s/0"] > 0
    # one row: nothing left for the second
    assert (speed["tokens_s/1"] == 0) == name.startswith("few")


class Half:
    """One of two ranks, played in this process: what it gives to a sum is taken down and given back as it is."""

    def __init__(self, monkeypatch, rank: int) -> None:
        self.given: list[list[torch.Tensor]] = []
        monkeypatch.setattr(ranks, "world", lambda: 2)
        monkeypatch.setattr(ranks, "rank", lambda: rank)
        monkeypatch.setattr(ranks, "total", lambda values: values)
        monkeypatch.setattr(ranks, "gathered", lambda values: [values])
        monkeypatch.setattr(ranks, "add", lambda held: self.given.append([x.clone() for x in held]))


def test_local_steps_are_the_weighted_mean_of_two_halves(two, monkeypatch):
    """Ranks of 4 and 3 rows step by themselves to the fourth step and to the sixth, and are averaged by hand."""
    made, blocks = team.warm(team.EXACT)
    options = team.EXACT.model_copy(update=team.CASES["local"])
    arrays, facts = told(two, "local")
    state, adapter, losses = {}, dict(made.start), []
    for first, steps in ((3, 4), (7, 2)):
        given, curves = [], []
        for rank in range(2):
            with monkeypatch.context() as patch:
                half = Half(patch, rank)
                model.write(made, adapter)
                used = optimizer.start(made, state)
                around = team.pull(made, made.start)
                plan = team.PLAN._replace(first=first, steps=steps)
                curves.append(train.fit(made, blocks, options, plan, used, around).losses)
            given.append(half.given[0])
        summed = [a + b for a, b in zip(*given, strict=True)]
        count = len(used.names)
        moved = dict(zip(used.names, summed[:count], strict=True))
        adapter = {n: x + moved[n].numpy() for n, x in adapter.items()}
        state = optimizer.moments(used)
        averages = iter(summed[count:])
        for name in used.names:
            for moment in optimizer.AVERAGES:
                state[f"optimizer/{moment}/{name}"] = next(averages).numpy()
        losses += np.sum(curves, axis=0).tolist()
    assert np.allclose(facts["losses"], losses, rtol=0, atol=LOSSES)
    for name, x in (adapter | state).items():
        assert np.allclose(arrays[name], x, rtol=0, atol=TENSORS), name


def test_local_steps_are_other_steps_than_those_together(two):
    local, together = told(two, "local")[0], told(two, "ddp")[0]
    assert any(np.abs(local[n] - together[n]).max() > 10 * TENSORS for n in together)
