"""The base model, kept warm, with one PEFT adapter that is written and read as plain arrays."""

from __future__ import annotations

import gc
import logging
import os
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import get_peft_model

from fl_client import bases, cores, lora, merged, ranks, spec
from fl_client.config import ConfigError, Model
from fl_client.merged import Slices
from fl_client.parallel.fsdp import shard
from strategies import adapter as algebra
from strategies.adapter import Adapter

LOG = logging.getLogger("bhasha_fl.silo")


class Warm(NamedTuple):
    """A base model with an adapter on it. ``tensors`` are views into the parameters, by adapter tensor name."""

    model: Any
    tokenizer: Any
    parameters: dict[str, torch.nn.Parameter]
    tensors: dict[str, tuple[str, tuple[slice, ...]]]
    start: Adapter
    peft_config: dict[str, Any]
    end: int
    merged: Slices
    # the base's own, by the names that they have without an adapter
    weights: dict[str, torch.nn.Parameter]
    sharded: bool = False  # no rank holds the whole base: all of them run every forward together

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return next(iter(self.parameters.values())).device

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        """Return the token ids of each text, without marks."""
        return bases.tokens(self.tokenizer, texts)


class Kind(NamedTuple):
    """What a model is made from."""

    options: Model
    private_rank: int
    scripts: str
    seed: int
    core: bool
    sharded: bool

    def beside(self, other: Kind) -> bool:
        """Return whether both are of one study: silos of mixed ranks, in turn in one process of a simulation.

        They share one base, which is not where each process has a part of it.
        """
        own = other.options
        same = self.options.model_copy(update={"rank": own.rank, "alpha": own.alpha})
        return self._replace(options=same) == other and not other.sharded


HELD: dict[Kind, Warm] = {}


def warm(
    options: Model,
    private_rank: int,
    scripts: str,
    seed: int,
    parallel: str = "ddp()",
    core: bool = False,
) -> Warm:
    """Return the model ready for training, from a cache where it was loaded before; its adapter is at its start.

    With a ``core`` each LoRA pair has a square matrix between its factors.
    Where ``parallel`` shards the base over several ranks, all of them call this together. Raises ``ConfigError``.
    """
    sharded = ranks.world() > 1 and bool(spec.build(parallel, "parallel").sharded)
    if sharded and options.quantization == "nf4":
        raise ConfigError(
            f"train.parallel={parallel!r} cannot shard a base of model.quantization="
            f"{options.quantization!r}; choose 'ddp()', or quantization 'bfloat16'"
        )
    kind = Kind(options, private_rank, scripts, seed, core, sharded)
    if kind not in HELD:
        _forget(kind)
        HELD[kind] = _make(*kind)
    return HELD[kind]


def _forget(coming: Kind) -> None:
    """Let go of the models that the coming one takes the place of, before it is loaded: memory may be for one."""
    gone = [HELD.pop(kind) for kind in list(HELD) if not kind.beside(coming)]
    if gone:
        gone.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _make(
    options: Model, private_rank: int, scripts: str, seed: int, core: bool, sharded: bool
) -> Warm:
    LOG.debug("process %d loads %s", os.getpid(), options.base)
    where = torch.device("cpu") if sharded else bases.device()
    base = bases.model(options.base, options.quantization, where)
    # All that are still held are of this study, on one base.
    for held in list(HELD.values())[:1]:
        lora.share(base, held.weights)
    weights = {} if sharded else dict(base.named_parameters(remove_duplicate=False))
    tokenizer = bases.tokenizer(options.base)
    config = lora.config(options, private_rank, tokenizer, scripts)
    try:
        model = get_peft_model(base, config)
    except ValueError as error:
        raise ConfigError(
            f"model.targets={options.targets!r} does not fit this base: {error}"
        ) from None
    if core:
        cores.attach(model, options.rank)
    parameters = {_name(n): p for n, p in model.named_parameters() if p.requires_grad}
    if sharded:
        shard(model, list(parameters.values()), bases.device())
    tensors = dict(_views(parameters, options.rank, private_rank))
    end = _end(tokenizer, options.base)
    slices = Slices({}, [])
    peft = lora.plain(config)
    made = Warm(model, tokenizer, parameters, tensors, {}, peft, end, slices, weights, sharded)
    return made._replace(start=_start(made, seed))


def _end(tokenizer: Any, base: str) -> int:
    """Return the token that ends a text; raises ``ConfigError`` where the tokenizer has no mark at all."""
    marks = (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id)
    found = next((mark for mark in marks if mark is not None), None)
    if found is None:
        raise ConfigError(
            f"model.base={base!r} has a tokenizer without an end mark; name its eos_token in tokenizer_config.json"
        )
    return int(found)


def _name(parameter: str) -> str:
    return parameter.replace(".default", "")


def _views(parameters: dict[str, torch.nn.Parameter], rank: int, private: int) -> Any:
    everything, shared, own = slice(None), slice(0, rank), slice(rank, rank + private)
    for name in parameters:
        kind = algebra.part(name)
        if kind in ("rows", "core") or not private:
            yield name, (name, (everything,))
            continue
        of_rank = (lambda s: (s,)) if kind == "A" else (lambda s: (everything, s))
        yield name, (name, of_rank(shared))
        yield name.removesuffix(".weight") + ".private", (name, of_rank(own))


def _start(made: Warm, seed: int) -> Adapter:
    read_now = read(made)
    return {
        name: value if algebra.part(name) == "rows" else algebra.initial(name, value.shape, seed)
        for name, value in read_now.items()
    }


def write(made: Warm, tensors: Adapter) -> None:
    """Set the adapter: the given tensors, and the seeded start where one is missing; what is merged only if given.

    Raises:
        ValueError: a tensor that the model does not have, or one of another shape.
    """
    slices = {name: x for name, x in tensors.items() if algebra.part(name) == "merged"}
    for name, x in tensors.items():
        if name in slices:
            continue
        if name not in made.start or x.shape != made.start[name].shape:
            raise ValueError(f"{name} of shape {x.shape} does not fit this model")
    with torch.no_grad():
        for name, (parameter, where) in made.tensors.items():
            value = np.array(tensors.get(name, made.start[name]), dtype=np.float32)
            made.parameters[parameter][where].copy_(torch.from_numpy(value))
    scaling = made.peft_config["lora_alpha"] / made.peft_config["r"]
    merged.attach(made.merged, made.model, slices, scaling, made.device)


def read(made: Warm) -> Adapter:
    """Return a copy of the adapter as float32 arrays, without what is merged: nobody trains that."""
    return {
        name: made.parameters[parameter].detach()[where].float().cpu().numpy().copy()
        for name, (parameter, where) in made.tensors.items()
    }
