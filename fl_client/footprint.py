"""How much memory training needs, estimated from shapes alone, and which settings to lower where it is too much.

Every number is an estimate: the parts were fitted to the peak of real steps of Llama-like models and are meant to be
right within a factor of one and a half; what a CPU's allocator keeps for itself varies most.
"""

from __future__ import annotations

from typing import NamedTuple

from fl_client import spec
from fl_client.config import Study
from fl_client.shapes import Shape
from strategies import adapter as algebra
from strategies.adapter import Layout

PROGRAM = 600_000_000  # Python and Torch in memory, or CUDA's own share of a GPU
TRAINED = 8  # bytes a number that is trained: itself and its gradient
MOMENTS = 8  # bytes more where AdamW keeps two moments of it; training alone always does
LOGIT = 14  # bytes a token and vocabulary entry: the logits, their softmax, their gradients
TAUGHT = 4  # bytes more a logit where teachers say what is to be learned
TEACHERS = 8  # bytes a number of the adapter: two of them
SCORED, SCORE_LOGIT = (
    16,
    8,
)  # rows that are scored at once without gradients, and bytes a logit of theirs
# bytes an activation, of which some stay in float32; what a machine chooses is not known here
WIDTH = {"float32": 4.0, "bfloat16": 3.2, "auto": 4.0}
ATTENTION = 6  # bytes a score of attention that is written out, as on a CPU
KEPT = {
    True: 1.25,
    False: 2.0,
}  # what an allocator holds for each byte that the backward pass needs, by GPU or not
NF4 = (
    0.5 + 1 / 64 + 4 / (64 * 256)
)  # bytes a weight: four bits, a scale for every 64, a scale for 256 of these
Changes = dict[str, int | bool | str]


class Room(NamedTuple):
    """Where training runs: so many processes, each with a GPU of its own or all in one machine's memory."""

    bytes: int
    processes: int
    gpu: bool


class Need(NamedTuple):
    """Bytes that one process needs, by what they are for."""

    base: int
    adapter: int
    activations: int
    logits: int
    scoring: int  # what scoring needs beyond a step of training
    program: int = PROGRAM

    @property
    def total(self) -> int:
        """Return all bytes of one process."""
        return sum(self)


def need(shape: Shape, tensors: Layout, study: Study, room: Room) -> Need:
    """Return the bytes that each process of a silo needs for this study's adapter on this base."""
    options = study.train
    rows = -(-options.batch_size // room.processes)
    tokens = min(options.micro_batch or rows, rows) * options.length
    layer = _layer(shape, tensors, study, room.gpu)
    held = (
        (layer + shape.layers * shape.hidden * 4) if options.checkpointing else layer * shape.layers
    )
    taught = bool(study.alone.enabled and study.alone.taught())
    activations = int(tokens * held * KEPT[room.gpu])
    logits = tokens * (LOGIT + TAUGHT * taught) * shape.vocabulary
    scored = SCORED * options.length * SCORE_LOGIT * shape.vocabulary
    adaptive = options.optimizer == "adamw" or study.alone.enabled
    trained = algebra.size(tensors) * (TRAINED + MOMENTS * adaptive + TEACHERS * taught)
    table = any(algebra.part(n) == "rows" for n in tensors) * shape.vocabulary * shape.hidden * 6
    return Need(
        base=int(_base(shape, study, room)),
        adapter=trained + table,
        activations=activations,
        logits=logits,
        scoring=max(0, scored - activations - logits),
    )


def fits(wanted: Need, room: Room) -> bool:
    """Return whether all processes find room."""
    return wanted.total * (1 if room.gpu else room.processes) <= room.bytes


def _base(shape: Shape, study: Study, room: Room) -> float:
    linear = sum(out * within for out, within in shape.linear.values())
    width = 2 if study.model.quantization == "bfloat16" else 4
    held = linear * (NF4 if study.model.quantization == "nf4" else width)
    held += (shape.parameters - linear) * width
    return held / room.processes if sharded(study) else held


def sharded(study: Study) -> bool:
    """Return whether each process holds but its share of the base."""
    return spec.parse(study.train.parallel, "parallel")[0].name == "fsdp"


def _layer(shape: Shape, tensors: Layout, study: Study, gpu: bool) -> float:
    """Return the bytes that the backward pass needs of one layer and token."""
    per_layer = len(shape.linear) / shape.layers
    outs = sum(out for out, _ in shape.linear.values()) / shape.layers
    rank = max((s[0] for n, s in tensors.items() if algebra.part(n) == "A"), default=0)
    # Norms keep about four times the width of the model; each linear layer its result, twice where a gate follows.
    numbers = 4 * shape.hidden + 1.5 * outs + per_layer * rank
    scores = 0 if gpu else ATTENTION * shape.heads * study.train.length
    return numbers * WIDTH[study.train.dtype] + scores


def lower(shape: Shape, tensors: Layout, study: Study, room: Room) -> Changes | None:
    """Return the fewest changes of settings, gentlest first, with which a study fits; None where none is enough."""
    changes: Changes = {}
    for key, value in _steps(study, room):
        changes[key] = value
        if value == "nf4":  # four bits cannot be sharded
            changes.pop("train.parallel", None)
        if fits(need(shape, tensors, changed(study, changes), room), room):
            for spare in list(changes):
                fewer = {k: v for k, v in changes.items() if k != spare}
                if fits(need(shape, tensors, changed(study, fewer), room), room):
                    changes = fewer
            return changes
    return None


def _steps(study: Study, room: Room) -> list[tuple[str, int | bool | str]]:
    """Return changes in the order in which they are tried: first those that leave the result as it is."""
    rows = -(-study.train.batch_size // room.processes)
    micro = min(study.train.micro_batch or rows, rows)
    found: list[tuple[str, int | bool | str]] = []
    while micro > 1:
        micro //= 2
        found.append(("train.micro_batch", micro))
    if not study.train.checkpointing:
        found.append(("train.checkpointing", True))
    whole = study.model.quantization != "nf4" and not sharded(study)
    if study.model.quantization == "none":
        found.append(("model.quantization", "bfloat16"))
    if whole and room.processes > 1:
        found.append(("train.parallel", "fsdp()"))
    if whole:
        found.append(("model.quantization", "nf4"))
    length = study.train.length
    while length >= 64:
        length //= 2
        found.append(("train.length", length))
    return found


def changed(study: Study, changes: Changes) -> Study:
    """Return a study with other values of some of its keys, ``TABLE.NAME``."""
    tables: dict[str, dict[str, int | bool | str]] = {}
    for key, value in changes.items():
        table, _, name = key.partition(".")
        tables.setdefault(table, {})[name] = value
    return study.model_copy(
        update={t: getattr(study, t).model_copy(update=new) for t, new in tables.items()}
    )


def said(changes: Changes) -> str:
    """Return changes as one would write them: ``train.micro_batch = 2 and train.checkpointing = true``."""
    written = {True: "true", False: "false"}
    lines = [
        f"{key} = {written[value] if isinstance(value, bool) else repr(value)}"
        for key, value in changes.items()
    ]
    return " and ".join(lines)
