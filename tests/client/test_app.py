"""The real ClientApp, asked as a hub asks: what leaves a silo, what stays, and the codes of what goes wrong."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, RecordDict
from flwr.common.serde import message_to_proto
from safetensors.numpy import load, save

from fl_client import alone, bases, memory, messages, site, spec, workers
from fl_client.app import app, together
from fl_client.config import flat, from_flat
from fl_client.messages import Fault, Order, Reply
from fl_client.train import Plan, rate
from fl_server.simulation.grid import LocalGrid
from strategies import adapter as algebra
from strategies import survey
from strategies.adapter import part
from strategies.codecs.codec import Key
from strategies.fedsb import fedsb

SECRET = "secret text"
KINDS = (
    "query",
    "query.initial",
    "query.gradient",
    "train",
    "train.second",
    "train.alone",
    "evaluate",
)


class Hub:
    """A hub by hand: one message to one silo, and its reply."""

    def __init__(self, home: Path, **changes) -> None:
        pairs = {
            "home": str(home),
            "rounds": 3,
            "model.rank": 2,
            "train.steps": 2,
            "train.batch_size": 2,
            "train.length": 32,
            "train.dtype": "float32",
            "evaluate.characters": 300,
            "alone.rates": "0.005",
            "alone.distil": "",
            "simulation.languages": "as,ne",
            "simulation.silos": 2,
            "simulation.characters": 800,
        }
        self.study = from_flat(pairs | {k.replace("__", "."): v for k, v in changes.items()})
        self.grid = LocalGrid(app, 2, flat(self.study))
        self.sites = site.simulated(self.study)
        self.start: dict[str, np.ndarray] = {}

    def message(self, kind, order=None, adapter=None, node=1, content=None):
        content = content or messages.order(order or Order(), adapter)
        (reply,) = self.grid.send_and_receive([messages.to(node, kind, content)])
        return reply

    def ask(self, *args, **options) -> messages.Reply:
        return messages.read_reply(self.message(*args, **options))

    def order(self, after=0, **changes) -> Order:
        """Return an order with the right start, which is asked for once."""
        if not self.start:
            first = self.ask("query.initial", Order(scripts="Beng,Deva")).arrays
            self.start = {name: x for name, x in first.items() if name != messages.TOKENS}
        sha = algebra.sha256(self.start)
        return Order(after, "Beng,Deva", sha)._replace(**changes)

    def after_one(self) -> dict[str, np.ndarray]:
        """Return an adapter such as a hub sends after the first round."""
        self.order()
        draw = np.random.default_rng(0)
        return {
            name: (x + 0.01 * draw.standard_normal(x.shape)).astype(np.float32)
            for name, x in self.start.items()
        }

    def home(self, node=1) -> Path:
        return Path(self.study.home) / "silos" / self.sites[node - 1].name


@pytest.fixture
def hub(tmp_path) -> Hub:
    return Hub(tmp_path)


def everything(message) -> bytes:
    """Return all that would travel, as bytes."""
    return message_to_proto(message).SerializeToString()


def blob(message) -> bytes:
    return message.content.array_records["update"]["blob"].data


def test_a_silo_introduces_itself_with_its_name_its_counts_and_its_base(hub):
    for node, (name, lang) in enumerate((("as-1", "as"), ("ne-1", "ne")), 1):
        reply = hub.ask("query", node=node)
        own = hub.sites[node - 1].train
        tokens = reply.facts["languages"][lang][3]
        assert reply == Reply(
            {},
            {},
            {
                "silo": name,
                "languages": {
                    lang: [
                        len(own),
                        sum(len(e.text.encode()) for e in own),
                        sum(len(e.text) for e in own),
                        tokens,
                    ]
                },
                "base": bases.sha256("builtin:tiny"),
            },
            "",
            0,
        )
        tokenizer = bases.tokenizer("builtin:tiny")
        assert tokens == sum(
            len(tokenizer(e.text, add_special_tokens=False).input_ids) for e in own
        )


def test_none_of_its_text_is_in_what_a_silo_sends(hub):
    order = hub.order(1)
    replies = [
        hub.message("query"),
        hub.message("query.initial", order),
        hub.message("train", hub.order(0)),
        hub.message("train.alone", order),
        hub.message("evaluate", order, hub.after_one()),
        hub.message("evaluate", order._replace(final=True), hub.after_one()),
    ]
    own = [e.text for split in hub.sites[0][1:] for e in split if len(e.text) > 8]
    assert len(own) > 50

    def found(reply):
        sent = everything(reply)
        return [x for x in own if x.encode() in sent or json.dumps(x)[1:-1].encode() in sent]

    assert own[3] in found(messages.answer(replies[0], {}, {"text": own[3]}))
    for reply in replies:
        assert messages.read_reply(reply).code == ""
        assert found(reply) == []


def test_every_silo_makes_the_same_start_without_private_names(tmp_path):
    hub = Hub(tmp_path, strategy="fedavg(private=3)")
    order = Order(scripts="Beng,Deva")
    first, second = (hub.message("query.initial", order, node=node) for node in (1, 2))
    assert blob(first) == blob(second)
    arrays = messages.read_reply(first).arrays
    assert {part(n) for n in arrays if n != messages.TOKENS} == {"A", "B", "rows"}
    plain = Hub(tmp_path / "plain").ask("query.initial", order).arrays
    assert algebra.sha256(arrays) == algebra.sha256(plain)


def test_a_round_sends_the_encoded_update_and_one_number(hub):
    reply = hub.ask("train", hub.order())
    assert reply.code == ""
    assert reply.facts == {"silo": "as-1", "round": 1}
    assert reply.metrics.keys() == {"loss"}
    assert reply.arrays.keys() == {"values"}
    delta = spec.codec(hub.study.codec).decode(
        reply.arrays, algebra.size(algebra.layout(hub.start)), Key(7, 1, "as-1")
    )
    assert np.any(delta)


def test_the_same_round_asked_twice_is_answered_with_the_same_bytes(hub):
    first = hub.message("train", hub.order())
    assert blob(first) == blob(hub.message("train", hub.order()))
    later = [hub.message("train", hub.order(1, best=1), hub.after_one()) for _ in range(2)]
    assert blob(later[0]) == blob(later[1]) != blob(first)


@pytest.mark.parametrize(
    ("changes", "remembers"),
    [
        ({"codec": "topk(0.1) | int8()"}, True),
        ({"codec": "randk(0.1) | qsgd(bits=4)"}, True),
        ({"strategy": "fedavg(private=3)"}, True),
        ({"strategy": "ffa(private=1)"}, True),
        ({"train__keep_optimizer": False, "codec": "topk(0.1)"}, True),
        ({"train__keep_optimizer": False, "strategy": "fedavg(private=3)"}, True),
        ({"train__keep_optimizer": False}, False),
    ],
    ids=str,
)
def test_a_later_round_asked_twice_starts_from_the_same_memory(changes, remembers, tmp_path):
    hub = Hub(tmp_path, **changes)
    assert hub.ask("train", hub.order()).code == ""
    wanted = spec.build(hub.study.strategy, "strategy")
    received = {n: x for n, x in hub.after_one().items() if wanted.changed(n, 2)}
    first = hub.message("train", hub.order(1, best=1), received)
    assert messages.read_reply(first).code == ""
    assert blob(hub.message("train", hub.order(1, best=1), received)) == blob(first)
    memory.path(hub.home(), 1).unlink()
    forgetful = hub.message("train", hub.order(1, best=1), received)
    assert (blob(forgetful) != blob(first)) == remembers


LOST = {
    "gone": lambda path: path.unlink(),
    "of another length": lambda path: memory.write_whole(
        path, save({"residual": np.full(3, 2, np.float32)})
    ),
    "of a silo that had no residual": lambda path: memory.write_whole(
        path, save({"other": np.zeros(3, np.float32)})
    ),
}


@pytest.mark.parametrize("loss", LOST)
def test_a_silo_whose_residual_is_lost_starts_from_zero_and_says_so(loss, tmp_path, caplog):
    """Its own words go to its log, with the norm that was dropped where that is known (C50)."""
    hub = Hub(tmp_path, codec="topk(0.1) | int8()", train__keep_optimizer=False)
    assert hub.ask("train", hub.order()).metrics.keys() == {"loss"}
    honest = hub.ask("train", hub.order(1), hub.after_one())
    assert honest.metrics.keys() == {"loss"}
    LOST[loss](memory.path(hub.home(), 1))
    with caplog.at_level(logging.WARNING):
        reset = hub.ask("train", hub.order(1), hub.after_one())
    assert reset.metrics == honest.metrics | {"codec_reset": 1.0}
    assert reset.arrays["values"].tobytes() != honest.arrays["values"].tobytes()
    (said,) = [r.getMessage() for r in caplog.records if "residual" in r.getMessage()]
    dropped = f"{np.sqrt(12):g}" if loss == "of another length" else "unknown"
    assert said.endswith(f"dropped norm {dropped}")
    # from zero is what a silo without any past sends
    memory.path(hub.home(), 2).unlink()
    if loss != "gone":
        memory.path(hub.home(), 1).unlink()
    new = hub.ask("train", hub.order(1), hub.after_one())
    assert {n: x.tobytes() for n, x in new.arrays.items()} == {
        n: x.tobytes() for n, x in reset.arrays.items()
    }


def test_a_codec_without_memory_has_none_to_lose(tmp_path):
    hub = Hub(tmp_path, codec="qsgd(bits=4)")
    hub.ask("train", hub.order())
    memory.path(hub.home(), 1).unlink()
    assert hub.ask("train", hub.order(1), hub.after_one()).metrics.keys() == {"loss"}


def test_two_silos_send_two_updates(hub):
    assert blob(hub.message("train", hub.order())) != blob(
        hub.message("train", hub.order(), node=2)
    )


def test_what_must_be_remembered_is_on_disk_when_the_reply_is_there(hub):
    hub.ask("train", hub.order())
    assert memory.rounds(hub.home()) == [1]
    kept = memory.recall(hub.home(), 2)
    assert "residual" in kept
    assert [name for name in kept if name.startswith("optimizer/exp_avg/")]


def test_a_silo_that_cannot_remember_does_not_answer_as_if_it_could(hub, monkeypatch):
    def full(*_):
        raise OSError(28, SECRET)

    order = hub.order()
    monkeypatch.setattr(memory, "write_whole", full)
    message = hub.message("train", order)
    assert messages.read_reply(message) == Reply({}, {}, {}, "internal", 0)
    assert SECRET.encode() not in everything(message)


def test_a_private_slice_is_trained_and_stays(tmp_path):
    hub = Hub(tmp_path, strategy="fedavg(private=3)", codec="float32()")
    reply = hub.ask("train", hub.order())
    assert reply.arrays["values"].size == algebra.size(algebra.layout(hub.start))
    kept = memory.recall(hub.home(), 2)
    private = {name: x for name, x in kept.items() if name.startswith("private/")}
    assert len(private) == sum(part(n) in {"A", "B"} for n in hub.start)
    assert all(np.any(x) for x in private.values())


def test_ffa_sends_no_a(tmp_path):
    hub = Hub(tmp_path, strategy="ffa()", codec="float32()")
    reply = hub.ask("train", hub.order())
    shapes = {n: x.shape for n, x in hub.start.items() if part(n) != "A"}
    assert reply.arrays["values"].size == algebra.size(shapes)


def test_another_start_is_refused_and_nothing_is_trained(hub):
    wrong = hub.order()._replace(start_sha256="0" * 64)
    for kind in ("train", "evaluate"):
        assert hub.ask(kind, wrong) == Reply({}, {}, {}, "basis_differs", 0)
    assert memory.rounds(hub.home()) == []


def unexpected(hub):
    return {"x.lora_A.weight": np.zeros((2, 2), np.float32)}


@pytest.mark.parametrize("adapter", [unexpected, Hub.after_one])
def test_a_tensor_that_the_first_round_does_not_need_is_malformed(adapter, hub):
    sent = adapter(hub)
    assert hub.ask("train", hub.order(), sent).code == "malformed"
    assert memory.rounds(hub.home()) == []


NAME = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def changed(adapter, value):
    return adapter | {NAME: np.asarray(value)}


CHANGES = {
    "nothing": lambda a: {},
    "one is missing": lambda a: {n: x for n, x in a.items() if n != NAME},
    "one is too many": lambda a: a | unexpected(None),
    "a private one": lambda a: a | {NAME.replace(".weight", ".private"): a[NAME]},
    "another shape": lambda a: changed(a, np.zeros((3, 192), np.float32)),
    "a shape that would stretch": lambda a: changed(a, a[NAME][:1]),
    "a row for all": lambda a: changed(a, a[NAME][0]),
    "one number": lambda a: changed(a, np.zeros((), np.float32)),
    "transposed": lambda a: changed(a, np.ascontiguousarray(a[NAME].T)),
    "whole numbers": lambda a: changed(a, a[NAME].astype(np.int64)),
    "NaN": lambda a: changed(a, np.full_like(a[NAME], np.nan)),
    "infinity": lambda a: changed(a, np.full_like(a[NAME], np.inf)),
}


@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize("change", CHANGES)
def test_an_adapter_that_is_not_what_the_round_needs_is_malformed(change, kind, hub):
    sent = CHANGES[change](hub.after_one())
    assert hub.ask(kind, hub.order(1), hub.after_one()).code == ""
    reply = hub.ask(kind, hub.order(1), sent)
    assert reply == Reply({}, {}, {}, "malformed", 0)


def merging(tmp_path, strategy="merge_reset()", **changes) -> tuple[Hub, dict[str, np.ndarray]]:
    """Return a hub of a merging strategy and what it sends after a round."""
    hub = Hub(tmp_path, strategy=strategy, **changes)
    moved = hub.after_one()
    rows = {n: x for n, x in moved.items() if part(n) == "rows"}
    pairs = {n.removesuffix("weight") + "merged": x for n, x in moved.items() if n not in rows}
    return hub, rows | pairs


MERGED = NAME.replace(".weight", ".merged")
UNMERGED = {
    "half a pair": lambda a: {n: x for n, x in a.items() if n != MERGED},
    "NaN": lambda a: a | {MERGED: np.full_like(a[MERGED], np.nan)},
    "doubles": lambda a: a | {MERGED: a[MERGED].astype(np.float64)},
    "another rank": lambda a: a | {MERGED: np.concatenate([a[MERGED]] * 2)},
    "a factor that restarts": lambda a: a | {NAME: a[MERGED]},
    "no token rows": lambda a: {n: x for n, x in a.items() if part(n) != "rows"},
}


@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize("change", UNMERGED)
def test_a_merged_part_that_does_not_fit_is_malformed(change, kind, tmp_path):
    hub, sent = merging(tmp_path)
    assert hub.ask(kind, hub.order(1), sent).code == ""
    reply = hub.ask(kind, hub.order(1), UNMERGED[change](sent))
    assert reply == Reply({}, {}, {}, "malformed", 0)


def test_a_merged_part_is_taken_neither_before_a_round_nor_from_a_strategy_that_merges_nothing(
    tmp_path,
):
    hub, sent = merging(tmp_path / "one")
    slices = {n: x for n, x in sent.items() if part(n) == "merged"}
    assert hub.ask("train", hub.order(), slices).code == "malformed"
    other, _ = merging(tmp_path / "two", "fedavg()")
    assert other.ask("train", other.order(1), other.after_one() | slices).code == "malformed"


@pytest.mark.parametrize("strategy", ["merge_reset()", "flora()"])
def test_moments_of_factors_that_restart_do_not_outlive_the_round(strategy, tmp_path):
    hub, sent = merging(tmp_path, strategy)
    hub.ask("train", hub.order())
    path = memory.path(hub.home(), 1)
    held = load(path.read_bytes())
    assert any(n.startswith("optimizer/") and ".lora_B." in n for n in held)
    first = hub.message("train", hub.order(1), sent)
    memory.write_whole(path, save({n: x for n, x in held.items() if ".lora_" not in n}))
    assert blob(hub.message("train", hub.order(1), sent)) == blob(first)
    memory.write_whole(path, save({"residual": held["residual"]}))
    assert blob(hub.message("train", hub.order(1), sent)) != blob(first)  # rows go on


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_without_an_order_is_malformed(kind, hub):
    content = RecordDict({"order": ConfigRecord({"code": "import os"})})
    assert hub.ask(kind, content=content) == Reply({}, {}, {}, "malformed", 0)


def rate_of(hub, order) -> float:
    """Return the learning rate of the first step of a round, were it trained."""
    options = hub.study.train
    plan = Plan(order.after * options.steps, 1, hub.study.rounds * options.steps, options.lr, "")
    return rate(plan, plan.first, options)


@pytest.mark.parametrize("schedule", ["sync()", "buffered(2)"])
@pytest.mark.parametrize("after", [3, 1_000_000])
def test_a_round_that_the_study_does_not_have_is_not_trained(after, schedule, tmp_path, caplog):
    hub = Hub(tmp_path, schedule=schedule)
    last, beyond = (hub.order(number, visit=visit_of(schedule)) for number in (2, after))
    assert rate_of(hub, last) > 0 and rate_of(hub, beyond) < rate_of(hub, last)
    assert after == 3 or rate_of(hub, beyond) < 0
    assert hub.ask("train", beyond, hub.after_one()) == Reply({}, {}, {}, "malformed", 0)
    assert f"there is no round {after + 1} of 3" in caplog.text
    assert memory.rounds(hub.home()) == []
    assert hub.ask("train", last, hub.after_one()).code == ""


def visit_of(schedule: str) -> int:
    return 0 if schedule == "sync()" else 50  # a fast silo trains more often than there are rounds


def test_a_round_that_the_study_does_not_have_is_not_trained_beside_another_silo(hub):
    orders = [hub.order(3), hub.order(2)]
    asked = [messages.to(1, "train", messages.order(o, hub.after_one())) for o in orders]
    context = Context(0, 0, {"partition-id": 0}, RecordDict(), flat(hub.study))
    codes = [messages.read_reply(r).code for r in together([(m, context) for m in asked])]
    assert codes == ["malformed", ""]


def test_a_silo_has_no_count_of_its_own_where_all_keep_common_rounds(hub, tmp_path):
    order = hub.order(visit=1_000_000)
    assert hub.ask("train", order) == Reply({}, {}, {}, "malformed", 0)
    assert memory.rounds(hub.home()) == []
    assert Hub(tmp_path / "other", schedule="buffered(2)").ask("train", order).code == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError(SECRET), "internal"),
        (KeyError(SECRET), "internal"),
        (Fault("text_missing", SECRET), "text_missing"),
        (Fault("malformed", SECRET), "malformed"),
        (ValueError(SECRET), "internal"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_text_of_an_error_stays_in_the_silos_own_log(
    kind, error, code, hub, monkeypatch, caplog
):
    def fail(*_):
        raise error

    monkeypatch.setattr(workers, "run", fail)
    message = hub.message(kind)
    assert messages.read_reply(message) == Reply({}, {}, {}, code, 0)
    assert list(message.content) == ["fault"]
    assert SECRET.encode() not in everything(message)
    assert SECRET in caplog.text


def test_running_out_of_memory_has_a_code_of_its_own(hub, monkeypatch):
    from fl_client import work

    def fail(*_):
        raise MemoryError(SECRET)

    monkeypatch.setitem(work.KINDS, "fit", fail)
    message = hub.message("train", hub.order())
    assert messages.read_reply(message).code == "out_of_memory"
    assert SECRET.encode() not in everything(message)


def test_a_study_that_does_not_parse_is_a_code_and_its_text_is_never_run(hub, tmp_path):
    trap = tmp_path / "trap"
    for key in ("strategy", "codec", "task"):
        text = f"__import__('os').mkdir({str(trap)!r})"
        bad = LocalGrid(app, 2, flat(hub.study) | {key: text})
        (reply,) = bad.send_and_receive([messages.to(1, "train", messages.order(hub.order()))])
        assert messages.read_reply(reply).code == "internal"
        assert not trap.exists()
        assert str(trap).encode() not in everything(reply)


def test_training_that_diverges_is_told_and_leaves_no_memory(tmp_path):
    hub = Hub(tmp_path, train__lr=1e30, train__steps=4)
    assert hub.ask("train", hub.order()) == Reply({}, {}, {}, "not_finite", 0)
    assert memory.rounds(hub.home()) == []


def test_training_alone_sends_three_numbers_and_is_done_once(hub, monkeypatch):
    reply = hub.ask("train.alone", hub.order())
    assert reply.code == ""
    assert reply.arrays == reply.facts == {}
    assert reply.metrics.keys() == {"valid", "lr", "step"}
    assert reply.metrics["lr"] == 0.005
    monkeypatch.setattr(alone, "fit", None)
    assert hub.ask("train.alone", hub.order()) == reply


@pytest.mark.parametrize("damaged", [lambda whole: whole[:-1], lambda whole: whole[:-1] + b"x"])
def test_a_damaged_result_of_training_alone_is_trained_again_to_the_same_bits(damaged, hub):
    reply = hub.ask("train.alone", hub.order())
    file = hub.home() / "alone" / alone.FILE
    whole = file.read_bytes()
    file.write_bytes(damaged(whole))
    assert file.read_bytes() != whole
    assert hub.ask("train.alone", hub.order()) == reply
    assert file.read_bytes() == whole


@pytest.mark.parametrize("what", ["alone", "adapted"])
def test_at_the_end_a_silo_goes_on_where_what_it_reached_is_damaged(what, hub):
    last = hub.order(1, final=True)
    hub.ask("train.alone", hub.order())
    hub.ask("train.alone", last, hub.after_one())
    file = hub.home() / what / alone.FILE
    file.write_bytes(file.read_bytes()[:-1])
    told = hub.ask("evaluate", last, hub.after_one())
    scored = {name.partition("/")[0] for name in told.metrics}
    assert told.code == "" and {"alone", "adapted"} - scored == {what}
    assert (told.facts["alone_lr"] is None) == (what == "alone")
    again = hub.ask("train.alone", last, hub.after_one()).code
    assert again == ("internal" if what == "alone" else "")  # of which rate?
    assert hub.ask("train.alone", hub.order()).code == ""
    assert hub.ask("train.alone", last, hub.after_one()).code == ""
    told = hub.ask("evaluate", last, hub.after_one())
    assert {"alone/as/bits", "adapted/as/bits"} <= told.metrics.keys()


def test_training_alone_that_diverges_everywhere_is_told(tmp_path):
    hub = Hub(tmp_path, alone__rates="1e30", train__steps=4)
    assert hub.ask("train.alone", hub.order()).code == "not_finite"
    assert not (hub.home() / "alone").exists()


def test_training_alone_does_not_change_what_a_round_sends(hub, tmp_path):
    hub.ask("train.alone", hub.order())
    other = Hub(tmp_path / "other")
    assert blob(hub.message("train", hub.order())) == blob(other.message("train", other.order()))


def test_validation_is_told_by_language_and_nothing_is_written(hub):
    reply = hub.ask("evaluate", hub.order(1), hub.after_one())
    assert reply.metrics.keys() == {"valid/as/bits", "valid/as/bytes"}
    size = sum(len(e.text.encode()) for e in hub.sites[0].valid)
    assert reply.metrics["valid/as/bytes"] == size
    assert reply.facts == {}
    assert not hub.home().exists()


def test_the_seeded_start_scores_as_the_base(hub):
    hub.order()
    first = hub.ask("evaluate", hub.order())
    moved = hub.ask("evaluate", hub.order(1), hub.after_one())
    last = hub.ask("evaluate", hub.order(1), hub.start)
    assert first.metrics == last.metrics != moved.metrics


def test_of_several_rates_a_silo_keeps_what_adapts_best_on_its_validation_text(tmp_path):
    reached = {}
    for factors in ("0.01", "0.5", "0.01,0.5", "1e30"):
        hub = Hub(tmp_path / factors, alone__adapt_rates=factors)
        hub.ask("train.alone", hub.order())
        reached[factors] = hub.ask("train.alone", hub.order(1, final=True), hub.after_one())
    assert reached["1e30"].code == "not_finite"
    one, other, both = (reached[f].metrics for f in ("0.01", "0.5", "0.01,0.5"))
    assert one["valid"] != other["valid"]
    assert both == min(one, other, key=lambda found: found["valid"])


def test_at_the_end_a_silo_trains_what_was_trained_together_on_its_own_text_at_half_its_rate(hub):
    asked = hub.order(1, final=True)
    assert hub.ask("train.alone", asked, hub.after_one()).code == "internal"  # of which rate?
    hub.ask("train.alone", hub.order())
    before = (hub.home() / "alone" / "adapter.safetensors").read_bytes()
    reply = hub.ask("train.alone", asked, hub.after_one())
    assert reply.metrics.keys() == {"valid", "lr", "step"} and not reply.arrays
    assert reply.metrics["lr"] == 0.0025
    assert hub.ask("train.alone", asked, hub.after_one()).metrics == reply.metrics  # not again
    assert (hub.home() / "alone" / "adapter.safetensors").read_bytes() == before
    told = hub.ask("evaluate", asked, hub.after_one()).metrics
    assert told["adapted/as/bits"] not in (told["together/as/bits"], told["alone/as/bits"])
    other = hub.ask("evaluate", asked, hub.start).metrics  # of another adapter it knows nothing
    assert "adapted/as/bits" not in other and "alone/as/bits" in other


@pytest.fixture
def distils(tmp_path) -> Hub:
    """Return a hub whose silo has trained alone and has been asked to adapt, and to distil where it helps."""
    hub = Hub(tmp_path, alone__distil="0.5,0.9")
    hub.ask("train.alone", hub.order())
    return hub


def reached(hub, what) -> dict[str, float]:
    """Return the note of a result in the silo's folder."""
    note = json.loads(load((hub.home() / what / alone.FILE).read_bytes())["note"].tobytes())
    return {name: note[name] for name in ("valid", "lr", "step")}


def test_a_silo_that_distils_tells_and_serves_the_better_of_what_it_adapted_and_distilled(
    distils, tmp_path
):
    last = distils.order(1, final=True)
    reply = distils.ask("train.alone", last, distils.after_one())
    runs = {what: reached(distils, what) for what in ("alone", "adapted", "distilled")}
    assert runs["alone"]["lr"] == 0.005 and runs["adapted"]["lr"] == 0.0025
    assert runs["distilled"]["lr"] in (0.0025, pytest.approx(0.0045))
    better = min(runs["adapted"], runs["distilled"], key=lambda run: run["valid"])
    assert reply.metrics == better and not reply.arrays
    told = distils.ask("evaluate", last, distils.after_one())

    plain = Hub(tmp_path / "plain")
    assert plain.ask("train.alone", plain.order()).metrics == runs["alone"]
    assert plain.ask("train.alone", last, plain.after_one()).metrics == runs["adapted"]
    other = plain.ask("evaluate", last, plain.after_one())
    same = told.metrics["adapted/as/bits"] == other.metrics["adapted/as/bits"]
    assert same == (better == runs["adapted"])
    assert told.metrics["alone/as/bits"] == other.metrics["alone/as/bits"]


def test_what_was_distilled_is_trained_once_and_again_only_where_it_is_damaged(
    distils, monkeypatch
):
    last, asked = distils.order(1, final=True), []
    fit = alone.fit
    monkeypatch.setattr(alone, "fit", lambda *a, **k: asked.append(a[-1]) or fit(*a, **k))
    first = distils.ask("train.alone", last, distils.after_one())
    count = len(asked)
    assert distils.ask("train.alone", last, distils.after_one()) == first
    assert len(asked) == count
    file = distils.home() / "distilled" / alone.FILE
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    told = distils.ask("evaluate", last, distils.after_one())
    assert told.code == "" and "adapted/as/bits" in told.metrics  # as it was adapted
    assert distils.ask("train.alone", last, distils.after_one()) == first
    assert file.read_bytes() == whole


def test_silos_distil_at_once_as_one_after_the_other(tmp_path):
    found = {}
    for cohort in (True, False):
        hub = Hub(tmp_path / str(cohort), alone__distil="0.5", simulation__languages="as,ne")
        for order, adapter in ((hub.order(), None), (hub.order(1, final=True), hub.after_one())):
            sent = [messages.to(n, "train.alone", messages.order(order, adapter)) for n in (1, 2)]
            places = [{"partition-id": n} for n in (0, 1)]
            contexts = [Context(0, 0, at, RecordDict(), flat(hub.study)) for at in places]
            pairs = list(zip(sent, contexts, strict=True))
            asked = [pairs] if cohort else [[pair] for pair in pairs]
            replies = [messages.read_reply(r) for one in asked for r in together(one)]
        assert [reply.code for reply in replies] == ["", ""]
        assert all((hub.home(n) / "distilled" / alone.FILE).is_file() for n in (1, 2))
        found[cohort] = [reply.metrics for reply in replies]
    for one, other in zip(found[True], found[False], strict=True):
        assert one == pytest.approx(other, rel=1e-3)


def test_nothing_is_distilled_from_what_was_merged_into_the_base(tmp_path, caplog):
    hub, sent = merging(tmp_path, alone__distil="0.5,0.9")
    hub.ask("train.alone", hub.order())
    caplog.clear()
    caplog.set_level(logging.DEBUG, "bhasha_fl")
    assert hub.ask("train.alone", hub.order(1, final=True), sent).code == ""
    told = [r.event.get("steps", 1) for r in caplog.records if hasattr(r, "event")]
    assert sum(told) == 3 * 2 * 3  # a bar over all tries comes to its end
    assert (hub.home() / "adapted").exists() and not (hub.home() / "distilled").exists()


@pytest.mark.parametrize("rail", [True, False])
def test_at_the_end_every_candidate_is_tested_and_one_is_served(rail, hub):
    if rail:
        hub.ask("train.alone", hub.order())
    reply = hub.ask("evaluate", hub.order(1, final=True), hub.after_one())
    assert reply.code == ""
    names = {"base", "together"} | ({"alone", "blend"} if rail else set())
    told = reply.metrics.keys() - {"blend_share"}
    assert {name.partition("/")[0] for name in told} == names
    assert ("blend_share" in reply.metrics) == rail
    size = sum(len(e.text.encode()) for e in hub.sites[0].test)
    assert {reply.metrics[f"{name}/as/bytes"] for name in names} == {size}
    assert reply.facts["served"] in names
    assert reply.facts["alone_lr"] == (0.005 if rail else None)
    assert (hub.home() / "served" / "adapter_model.safetensors").is_file()


def test_only_the_fault_and_its_own_log_know_of_a_refused_start(hub, caplog):
    caplog.set_level(logging.ERROR, "bhasha_fl.silo")
    hub.ask("train", hub.order(start_sha256="1"))
    assert messages.CODES["basis_differs"] in caplog.text


def test_a_silo_tells_sketches_where_the_study_says_so_and_they_are_the_same_twice(tmp_path):
    hub = Hub(tmp_path, strategy="fedsb(lora='language', private=2)")
    first, second = (hub.ask("query.gradient", hub.order()) for _ in range(2))
    assert first.facts == {"silo": "as-1", "round": 0} and not first.metrics
    wanted = survey.sketched(fedsb().survey, algebra.layout(hub.start))
    assert algebra.layout(first.arrays) == wanted
    assert all(x.tobytes() == second.arrays[n].tobytes() for n, x in first.arrays.items())
    assert not hub.home().exists()


@pytest.mark.parametrize("strategy", ["ffa()", "fedavg()"])
def test_a_hub_learns_no_gradient_that_the_study_does_not_name(strategy, tmp_path):
    hub = Hub(tmp_path, strategy=strategy)
    assert hub.ask("query.gradient", hub.order()) == Reply({}, {}, {}, "malformed", 0)


def test_a_silo_of_another_start_tells_no_sketch(tmp_path):
    hub = Hub(tmp_path, strategy="fedsb()")
    asked = hub.order(start_sha256="0" * 64)
    assert hub.ask("query.gradient", asked).code == "basis_differs"
