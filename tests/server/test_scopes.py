"""What merges with whom, seen in a real run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fl_client import messages
from fl_client.app import app as client
from fl_server import cohort
from fl_server.silos import Silo
from strategies.adapter import part
from strategies.fedavg import fedavg
from strategies.partial_pool import partial_pool
from strategies.weights.weight import Counts


class Tap:
    """A client that lets everything through and remembers what crossed the wire."""

    def __init__(self) -> None:
        self.down: list[set[str]] = []
        self.up: list[int] = []

    def __call__(self, message, context):
        reply = client(message, context)
        self.down.append(set(messages.read_order(message)[1]))
        self.up.append(sum(x.size for x in messages.read_reply(reply).arrays.values()))
        return reply


def run(small, simulate, tmp_path, strategy, **changes):
    tap = Tap()
    study = small(tmp_path / "run", strategy=strategy, codec="float32()", **changes)
    return simulate(study, app=tap), tap, tmp_path / "run"


def tensors(folder: Path, name: str) -> dict[str, np.ndarray]:
    return load_file(folder / "adapter" / name / "adapter_model.safetensors")


def test_language_scope_gives_each_language_an_adapter_of_its_own(small, simulate, tmp_path):
    report, _, folder = run(small, simulate, tmp_path, "fedavg(lora='language')")
    assert report["adapters"] == ["as", "ne"]
    assamese, nepali = tensors(folder, "as"), tensors(folder, "ne")
    assert all(not np.array_equal(assamese[n], nepali[n]) for n in assamese)


def test_everyone_scope_gives_one_adapter(small, simulate, tmp_path):
    report, _, _ = run(small, simulate, tmp_path, "fedavg(lora='everyone', rows='everyone')")
    assert report["adapters"] == ["everyone"]


def test_mixed_scopes_share_lora_with_everyone_and_rows_within_the_language(
    small, simulate, tmp_path
):
    report, _, folder = run(small, simulate, tmp_path, "fedavg(lora='everyone', rows='language')")
    assert report["adapters"] == ["as", "ne"]
    assamese, nepali = tensors(folder, "as"), tensors(folder, "ne")
    for name in assamese:
        same = np.array_equal(assamese[name], nepali[name])
        assert same == (part(name) != "rows"), name


@pytest.mark.parametrize(
    ("strategy", "never"),
    [
        ("fedavg(lora='everyone', b='silo', rows='silo')", {"B", "rows", "private"}),
        ("fedavg(lora='everyone', rows='silo', private=2)", {"rows", "private"}),
        ("ffa(lora='everyone', rows='language')", {"A", "private"}),
    ],
)
def test_what_stays_in_the_silo_never_crosses_the_wire(strategy, never, small, simulate, tmp_path):
    _, tap, folder = run(small, simulate, tmp_path, strategy)
    crossed = {part(name) for names in tap.down for name in names}
    assert crossed and not crossed & never
    memory = load_file(sorted((folder / "silos" / "as-1" / "memory").iterdir())[-1])
    kept = {
        n.removeprefix("private/"): x.size for n, x in memory.items() if n.startswith("private/")
    }
    assert {part(n) for n in kept} == never - {"A"} - (
        {"private"} if "b=" in strategy else set()
    ) - ({"private"} if strategy.startswith("ffa") else set())
    # In the first round nothing comes down and everything shared and trained goes up, no number more.
    shared = tensors(folder, "as" if "language" in strategy else "everyone")
    sent = sum(x.size for n, x in shared.items() if part(n) not in never)
    assert max(tap.up[5:]) >= sent and set(tap.up[-12:]) <= {0, sent}


def test_a_silo_alone_in_its_group_moves_by_its_own_update(small, simulate, tmp_path):
    report, _, folder = run(
        small,
        simulate,
        tmp_path,
        "fedavg(lora='language', rows='language')",
        simulation__silos=2,
        rounds=1,
    )
    served = load_file(folder / "silos" / "as-1" / "served" / "adapter_model.safetensors")
    assert report["silo_scores"]["as-1"]["served"] == "together"
    for name, x in tensors(folder, "as").items():
        np.testing.assert_allclose(served[name], x, atol=1e-6)


def test_components_link_silos_through_shared_groups():
    silos = [
        Silo(i, f"{lang}-1", {lang: Counts(1, 1, 1, 1)}, "")
        for i, lang in enumerate(("as", "ne", "sat"))
    ]
    names = ["q.lora_A.weight", "q.lora_B.weight", "e.trainable_tokens_delta"]
    apart = cohort.gather(silos, fedavg(lora="language", rows="silo"), names)
    linked = cohort.gather(silos, fedavg(lora="everyone", rows="language"), names)
    by_family = cohort.gather(silos, fedavg(lora="family", rows="language"), names)
    assert cohort.components(apart) == [["as-1"], ["ne-1"], ["sat-1"]]
    assert cohort.components(linked) == [["as-1", "ne-1", "sat-1"]]
    assert cohort.components(by_family) == [["as-1", "ne-1"], ["sat-1"]]


def silo(lang: str, node: int = 0) -> Silo:
    return Silo(node, f"{lang}-1", {lang: Counts(1, 1, 1, 1)}, "")


@pytest.mark.parametrize(
    ("strategy", "folders"),
    [
        (fedavg(lora="everyone", rows="everyone"), {"as": "everyone", "mni-Beng": "everyone"}),
        (fedavg(lora="family", rows="language"), {"as": "as", "mni-Beng": "mni-Beng"}),
        (
            fedavg(lora="family", rows="script"),
            {
                "as": "family-indo-aryan_script-beng",
                "mni-Beng": "family-sino-tibetan_script-beng",
                "sat": "family-austroasiatic_script-olck",
            },
        ),
        (
            fedavg(lora="as+ne", rows="everyone"),
            {"as": "group-as-ne", "ne": "group-as-ne", "sat": "sat"},
        ),
        (partial_pool(rows="everyone"), {"as": "family-indo-aryan", "sat": "family-austroasiatic"}),
    ],
)
def test_silos_are_released_under_one_name_only_where_they_share_every_tensor(strategy, folders):
    names = ["e.trainable_tokens_delta", "q.lora_A.weight", "q.lora_B.weight"]
    present = [silo(lang) for lang in folders]
    gathered = cohort.gather(present, strategy, names)
    found = {s.language: cohort.folder_of(gathered, s, strategy) for s in present}
    assert found == folders


def test_a_grouping_and_partial_pooling_run_and_release_an_adapter_a_group(
    small, simulate, tmp_path
):
    grouping = "fedavg(lora='as+ne', rows='as+ne')"
    report, _, _ = run(small, simulate, tmp_path / "g", grouping, rounds=1)
    assert report["adapters"] == ["group-as-ne"]
    pooled = "partial_pool(0.5, lora='language', rows='language')"
    report, _, folder = run(small, simulate, tmp_path / "p", pooled)
    assert report["adapters"] == ["as", "ne"]
    assamese, nepali = tensors(folder, "as"), tensors(folder, "ne")
    assert all(not np.array_equal(assamese[n], nepali[n]) for n in assamese)
