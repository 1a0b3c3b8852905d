"""The forward and backward of one optimizer step on one rank.

The global batch of a step follows from its number alone (``encode.order``: a seeded permutation for each pass, what a
``DistributedSampler`` with ``set_epoch`` does, for any number of ranks and with no position to save). A rank takes its
share of it, in pieces of ``micro_batch``. Every loss is a sum divided by the tokens of the whole batch, so that sums
over pieces and ranks give the gradient that one rank would have.
"""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fl_client import machine, ranks, teachers
from fl_client.config import ConfigError, Train
from fl_client.model import Warm
from fl_client.parallel.parallel import Team
from fl_client.teachers import Teachers
from tasks.encode import IGNORED, Blocks

Rows = NDArray[Any]


class Text(NamedTuple):
    """Packed text on the device, and how many tokens of each block are learned."""

    ids: torch.Tensor
    labels: torch.Tensor
    learned: Rows


def text(blocks: Blocks, device: torch.device) -> Text:
    """Return packed text on the device."""
    ids, labels = (torch.from_numpy(x).to(device) for x in (blocks.ids, blocks.labels))
    return Text(ids, labels, (blocks.labels[:, 1:] != IGNORED).sum(axis=1))


def pieces(rows: Rows, micro: int) -> list[Rows]:
    """Return this rank's share in pieces of ``micro`` rows (0: one piece), as many on every rank; some may be empty."""
    own = ranks.share(rows)
    largest = -(-len(rows) // ranks.world())
    size = micro or largest
    return [own[at : at + size] for at in range(0, largest, size)]


def half(options: Train, device: torch.device) -> bool:
    """Return whether products are in bfloat16: as asked, and by itself where the device multiplies it at speed."""
    if options.dtype != "auto":
        return options.dtype == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return machine.multiplies_bfloat16()


def backward(
    team: Team, held: Text, rows: Rows, options: Train, taught: Teachers | None = None
) -> torch.Tensor:
    """Add the gradients of a global batch; return this rank's part of its loss, in nats a token of the whole batch."""
    own = pieces(rows, options.micro_batch)
    everyone = max(1, int(held.learned[rows].sum()))
    mine = max(1, int(held.learned[ranks.share(rows)].sum()))
    divisor = mine if team.apart else everyone
    found = []
    for number, piece in enumerate(own):
        with team.quiet() if number + 1 < len(own) else nullcontext():
            nats = loss(team.model, held, piece, half(options, held.ids.device), taught)
            (nats / divisor).backward()  # type: ignore[no-untyped-call]
        found.append(nats.detach())
    team.gather()
    return (found[0] if len(found) == 1 else torch.stack(found).sum()) / everyone


def loss(
    model: Any, held: Text, piece: Rows, half: bool, taught: Teachers | None = None
) -> torch.Tensor:
    """Return the summed loss of some blocks, bit for bit what a causal model of Transformers sums itself.

    With teachers it is the cross-entropy of their targets, which falls to the entropy of these and not to 0. An empty
    piece runs as a block of which nothing is learned: in a team every rank takes part in every pass.
    """
    at = torch.from_numpy(piece if len(piece) else np.zeros(1, np.int64))
    labels = held.labels[at] if len(piece) else torch.full_like(held.labels[at], IGNORED)
    ids, wanted = held.ids[at], torch.nn.functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]
    targets = teachers.targets(taught, ids, wanted, half) if taught is not None else None
    with torch.autocast(held.ids.device.type, torch.bfloat16, enabled=half):
        logits = model(input_ids=ids, use_cache=False).logits.float()
        flat = logits.view(-1, logits.shape[-1])
        if targets is not None:
            aimed = targets.view_as(flat)
            return torch.nn.functional.cross_entropy(flat, aimed, reduction="sum")
        return torch.nn.functional.cross_entropy(
            flat, wanted.reshape(-1), ignore_index=IGNORED, reduction="sum"
        )


def recompute(made: Warm, on: bool) -> None:
    """Keep no activations for the backward but compute them again, or keep them as before; raises ``ConfigError``."""
    base = made.model.get_base_model()
    kind = "activation" if hasattr(base, "activation_checkpointing_enable") else "gradient"
    try:  # Transformers renamed both
        if on:
            getattr(base, f"{kind}_checkpointing_enable")({"use_reentrant": False})
        else:
            getattr(base, f"{kind}_checkpointing_disable")()
            base.disable_input_require_grads()
    except ValueError as error:
        raise ConfigError(f"train.checkpointing=true does not fit this base: {error}") from None


def seed(key: str, step: int) -> None:
    """Seed Torch for one step on this rank: a base with dropout repeats itself too."""
    digest = hashlib.sha256(f"{key}:{step}:{ranks.rank()}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big", signed=True))
