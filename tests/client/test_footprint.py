"""Memory before any is used: near what real steps took, and lowered by the settings that say they lower it."""

from __future__ import annotations

import itertools

import pytest
import torch

from fl_client import evaluate, footprint, model, shapes
from fl_client.config import Model, Study, from_flat
from fl_client.footprint import Need, Room
from strategies import adapter as algebra

CPU = Room(10**13, 1, False)
TINY = shapes.read("builtin:tiny")
# Peaks over base and program, in MB, of a real step of Llama-like models with LoRA of rank 16 on a CPU:
# (hidden, intermediate, layers, heads, kv heads, vocabulary), token rows, batch, length, half, checkpointing.
WIDE, FLAT, SMALL = (
    (512, 1376, 8, 8, 8, 32000),
    (512, 1376, 2, 8, 8, 32000),
    (512, 1376, 8, 8, 8, 2000),
)
LARGE = (1024, 2816, 8, 16, 8, 8000)
PEAKS = [
    ((WIDE, 0, 4, 512, False, False), 3491), ((WIDE, 0, 4, 512, True, False), 2155),
    ((WIDE, 4000, 4, 512, False, False), 3076), ((WIDE, 4000, 4, 512, True, False), 2279),
    ((WIDE, 0, 8, 512, True, False), 4290), ((WIDE, 0, 8, 512, True, True), 2353),
    ((LARGE, 0, 8, 256, True, False), 2699), ((LARGE, 0, 8, 256, True, True), 1038),
    ((SMALL, 0, 4, 512, False, False), 2026), ((SMALL, 0, 4, 512, True, False), 1508),
    ((FLAT, 0, 4, 512, False, False), 1344), ((FLAT, 0, 4, 512, True, False), 1245),
    ((SMALL, 0, 16, 128, False, False), 2282), ((SMALL, 0, 16, 128, True, False), 1153),
]  # fmt: skip


def study(**changes: object) -> Study:
    plain = {"alone.distil": ""}  # a step without teachers
    return from_flat(plain | {key.replace("__", "."): value for key, value in changes.items()})


def need(room: Room = CPU, **changes: object) -> Need:
    """Return what a study needs on the tiny base."""
    made = study(**changes)
    return footprint.need(TINY, tensors(made), made, room)


def tensors(made: Study) -> algebra.Layout:
    return shapes.adapter(TINY, made.model, "builtin:tiny", "Beng")


def llama(
    sizes: tuple[int, ...], trained: int, rank: int = 16
) -> tuple[shapes.Shape, algebra.Layout]:
    """Return a Llama-like base of these sizes and its adapter."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    names += ("num_key_value_heads", "vocab_size")
    config = dict(zip(names, sizes, strict=True)) | {
        "model_type": "llama",
        "tie_word_embeddings": True,
    }
    shape = shapes._from_config(config, "x")
    made = shapes.adapter(shape, Model(rank=rank, rows="none"), "x", "")
    row = {
        "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": (
            trained,
            sizes[0],
        )
    }
    return shape, made | (row if trained else {})


@pytest.mark.parametrize(("case", "peak"), PEAKS)
def test_an_estimate_is_near_the_peak_of_a_real_step(case, peak):
    sizes, trained, batch, length, half, checkpointing = case
    made = study(
        train__batch_size=batch,
        train__length=length,
        train__dtype="bfloat16" if half else "float32",
        train__checkpointing=checkpointing,
    )
    found = footprint.need(*llama(sizes, trained), made, CPU)
    beside = found.adapter + found.activations + found.logits
    assert 1 / 1.5 < beside / (peak * 1e6) < 1.5


@pytest.mark.parametrize(
    ("batch", "length", "dtype"), [(4, 96, "float32"), (4, 96, "bfloat16"), (2, 256, "bfloat16")]
)
def test_activations_are_near_what_a_real_backward_pass_holds(batch, length, dtype):
    made = model.warm(Model(), 0, "", 7)
    own = {p.untyped_storage().data_ptr() for p in made.model.parameters()}
    held: dict[int, torch.Tensor] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage().data_ptr() not in own:
            held[x.untyped_storage().data_ptr()] = x
        return x

    ids = torch.zeros((batch, length), dtype=torch.int64)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x),
        torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"),
    ):
        logits = made.model(input_ids=ids, use_cache=False).logits
    saved = sum(x.untyped_storage().nbytes() for x in held.values())
    found = need(train__batch_size=batch, train__length=length, train__dtype=dtype)
    table = TINY.vocabulary * TINY.hidden * 4 * 2  # the rows put into the embedding, and cast
    assert logits.requires_grad
    assert 1 / 1.5 < saved / (found.activations / footprint.KEPT[False] + table) < 1.5


def test_scoring_reads_as_many_rows_at_once_as_it_does():
    assert evaluate.BATCH == footprint.SCORED


def test_a_step_of_one_row_still_leaves_room_for_scoring_sixteen():
    many, one = need(train__batch_size=64), need(train__micro_batch=1)
    assert many.scoring == 0
    assert one.scoring > 0
    assert one.scoring + one.activations + one.logits == 16 * 96 * 8 * TINY.vocabulary


def test_teachers_take_their_adapters_and_what_they_expect_of_each_token():
    plain, taught = need(), need(alone__distil="0.5,0.9")
    logits = Study().train.batch_size * Study().train.length * TINY.vocabulary
    assert taught.logits - plain.logits == 4 * logits
    assert taught.adapter - plain.adapter == 8 * algebra.size(tensors(Study()))
    assert taught[2] == plain[2]
    assert need(alone__distil="0.5", alone__adapt=False) == plain
    assert need(alone__distil="0.5", alone__enabled=False).logits == plain.logits


def test_quantization_takes_the_linear_layers_to_about_an_eighth():
    plain, four = need().base, need(model__quantization="nf4").base
    linear = sum(o * i for o, i in TINY.linear.values())
    assert plain == TINY.parameters * 4
    assert plain - four == pytest.approx(linear * (4 - 0.516), rel=1e-3)


def test_sixteen_bits_take_half_of_the_base():
    assert need(model__quantization="bfloat16").base == need().base // 2


def test_fully_sharded_processes_hold_a_share_of_the_base_each():
    two = Room(10**13, 2, True)
    assert need(two, train__parallel="fsdp()").base == need(two).base // 2


def test_a_process_trains_its_share_of_the_batch_in_pieces():
    assert (
        need(Room(1, 4, True)).activations
        == need(Room(1, 1, True), train__batch_size=2).activations
    )
    assert need(train__micro_batch=2).activations == need(train__batch_size=2).activations
    assert need(train__micro_batch=99).activations == need().activations


def test_checkpointing_keeps_little_more_than_one_layer():
    assert need(train__checkpointing=True).activations < need().activations / 2


def test_attention_is_not_written_out_on_a_gpu():
    assert (
        need(Room(1, 1, True), train__length=512).activations
        < need(train__length=512).activations / 2
    )


def test_every_number_that_is_trained_costs_sixteen_bytes():
    made = study(model__rows="none")
    assert need(model__rows="none").adapter == 16 * algebra.size(tensors(made))


def test_processes_without_gpus_share_one_memory():
    found = need()
    assert footprint.fits(found, Room(found.total * 2, 2, False))
    assert not footprint.fits(found, Room(found.total * 2 - 1, 2, False))
    assert footprint.fits(found, Room(found.total, 2, True))


# What to lower.


def lowered(room: Room, **changes: object) -> footprint.Changes | None:
    made = study(**changes)
    return footprint.lower(TINY, tensors(made), made, room)


def test_the_first_thing_to_lower_leaves_the_result_as_it_is():
    room = Room(need().total - 1, 1, False)
    assert lowered(room) == {"train.micro_batch": 4}


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.2, 0.4, 0.8])
def test_what_is_lowered_is_enough_and_nothing_of_it_can_be_spared(share):
    long = {"train__length": 2048, "train__batch_size": 32, "train__dtype": "float32"}
    room = Room(int(need(**long).total * share), 1, False)
    made, changes = study(**long), lowered(room, **long)
    assert changes

    def enough(some: footprint.Changes) -> bool:
        wanted = footprint.changed(made, some)
        return footprint.fits(footprint.need(TINY, tensors(made), wanted, room), room)

    assert enough(changes)
    for fewer in itertools.combinations(changes.items(), len(changes) - 1):
        assert not enough(dict(fewer))


@pytest.mark.parametrize(
    ("gigabytes", "gpus", "changes"),
    [
        (22, 2, {"model.quantization": "bfloat16"}),
        (12, 2, {"model.quantization": "bfloat16", "train.parallel": "fsdp()"}),
        (10, 1, {"model.quantization": "nf4"}),
    ],
)
def test_a_base_that_is_too_large_is_held_in_fewer_bits_or_sharded(gigabytes, gpus, changes):
    shape, made = llama((4096, 11008, 32, 32, 32, 32000), 0)
    options = study(train__micro_batch=1, train__checkpointing=True)
    assert footprint.lower(shape, made, options, Room(gigabytes * 10**9, gpus, True)) == changes


def test_four_bits_and_sharding_are_never_proposed_together():
    shape, made = llama((4096, 11008, 32, 32, 32, 32000), 0)
    room = Room(8 * 10**9, 4, True)
    options = study(train__micro_batch=1, train__checkpointing=True, train__length=2048)
    found = footprint.lower(shape, made, options, room)
    assert found is not None
    assert "train.parallel" not in found or found.get("model.quantization") != "nf4"
    four = footprint.changed(options, {"model.quantization": "nf4"})
    assert "train.parallel" not in (
        footprint.lower(shape, made, four, Room(2 * 10**9, 4, True)) or {}
    )


def test_sgd_without_training_alone_keeps_no_moments():
    plain = need(alone__enabled=False)
    assert need(alone__enabled=False, train__optimizer="sgd").adapter < plain.adapter
    assert need(train__optimizer="sgd") == need() == plain


def test_where_nothing_is_enough_nothing_is_promised():
    assert lowered(Room(10**8, 1, False)) is None


def test_changes_read_as_one_would_write_them():
    changes = {"train.micro_batch": 2, "train.checkpointing": True, "train.parallel": "fsdp()"}
    said = footprint.said(changes)
    assert (
        said == "train.micro_batch = 2 and train.checkpointing = true and train.parallel = 'fsdp()'"
    )
