"""A study: the few independent choices that hub and silos share. One file drives simulation and deployment.

The same keys stand in ``study.toml``, in ``[tool.flwr.app.config]`` and behind ``--set``, with their table's name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fl_client.numbers import Real, Seed, Whole, parted

Scalar = str | int | float | bool


class ConfigError(ValueError):
    """A study that cannot be run as written, in one plain sentence."""


class Section(BaseModel):
    """A table of the study file: unknown keys are refused, values do not change once read, numbers are finite."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, coerce_numbers_to_str=True, validate_default=True,
        allow_inf_nan=False,  # TOML does not read JSON's infinity
    )  # fmt: skip


class Model(Section):
    """The base model and the adapter trained on it."""

    base: str = Field("builtin:tiny", min_length=1)
    rank: Whole = Field(16, ge=1, le=1024)
    alpha: Real = Field(32, gt=0)
    targets: str = Field("all-linear", min_length=1)
    rows: Literal["scripts", "none"] = "scripts"
    quantization: Literal["none", "bfloat16", "nf4"] = "none"


class Train(Section):
    """One silo's work in one round. ``rows_lr`` times ``lr`` is the learning rate of token rows."""

    steps: Whole = Field(12, ge=1)
    batch_size: Whole = Field(8, ge=1)
    length: Whole = Field(96, ge=8)
    lr: Real = Field(1e-2, gt=0)
    rows_lr: Real = Field(1.0, gt=0)
    decay: Real = Field(0.1, gt=0, le=1)
    clip: Real = Field(1.0, gt=0)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    keep_optimizer: bool = True
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    micro_batch: Whole = Field(0, ge=0)
    checkpointing: bool = False
    parallel: str = "ddp()"
    threads: Whole = Field(1, ge=0)


class Alone(Section):
    """The safety rail: what each silo reaches by itself, and by which shares candidates are blended.

    With ``adapt`` each silo ends by training what was trained together on its own text, at ``adapt_rates`` times its
    best rate alone. With ``distil`` it then trains on from the middle of that and of its run alone, with both as its
    teachers (``fl_client.tries``), at each of these shares; what does better on validation text counts as adapted.
    Something else than alone is served if it is ahead on validation text by ``errors`` standard errors of its lead over
    the blocks of that text, and if others had a part in it, also by a ``margin`` of the bits.
    """

    enabled: bool = True
    rates: str = "0.0025,0.005,0.01"
    margin: Real = Field(0.0, ge=0, lt=1)
    errors: Real = Field(1.0, ge=0)
    blend: str = "0.25,0.5,0.75"
    adapt: bool = True
    adapt_rates: str = "0.5"
    distil: str = "0.9"

    def lrs(self, key: str = "alone.rates") -> list[float]:
        """Return the learning rates tried; raises ``ConfigError``, which names the ``key`` that they were given by."""
        return _numbers(key, self.rates, math.inf)

    def adapted(self, lr: float = 1.0) -> list[float]:
        """Return the rates at which a silo adapts whose best alone was ``lr``; raises ``ConfigError``."""
        return [lr * factor for factor in _numbers("alone.adapt_rates", self.adapt_rates, math.inf)]

    def taught(self) -> list[float]:
        """Return the shares with which teachers teach, none where nothing is distilled; raises ``ConfigError``."""
        wanted = self.adapt and self.distil.strip()
        return _numbers("alone.distil", self.distil, 1) if wanted else []

    def shares(self) -> list[float]:
        """Return the shares that are tried in a blend; raises ``ConfigError``."""
        return _numbers("alone.blend", self.blend, 1) if self.blend.strip() else []


class Evaluate(Section):
    """How much held-out text is scored, and every how many rounds.

    With ``every`` 0 nothing is: a study for its time and bytes alone, whose last round is released and served unseen.
    ``characters`` of what is learned are read for each silo, language and split. ``answers`` are written for each silo
    and language at the end, of ``answer_tokens`` at most; where a task has choices, every example is answered.
    """

    every: Whole = Field(1, ge=0)
    characters: Whole = Field(3000, ge=100)
    answers: Whole = Field(16, ge=1)
    answer_tokens: Whole = Field(64, ge=1)


class Simulation(Section):
    """The silos of a simulated study; real ones have data of their own. ``sources`` are all if none are named."""

    data: str = Field("cldr", min_length=1)  # "" would be the folder that one stands in
    languages: str = "as,or,ne,sat"
    sources: str = ""
    silos: Whole = Field(8, ge=0)
    partition: str = "by_language()"
    characters: Whole = Field(0, ge=0)
    pooled: bool = False
    ranks: str = ""

    def dealt(self, most: int) -> list[int]:
        """Return the LoRA ranks that silos take in turn, ``most`` where none are given; raises ``ConfigError``."""
        if self.pooled or not self.ranks:
            return [most]
        ranks = [int(rank) if rank.strip().isdecimal() else 0 for rank in self.ranks.split(",")]
        if not all(1 <= rank <= most for rank in ranks):
            raise ConfigError(
                f"simulation.ranks={self.ranks!r} must be whole numbers from 1 to model.rank={most}"
                " with commas between"
            )
        return ranks


class Study(Section):
    """Every choice of a study, with its default."""

    name: str = Field("demo", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    task: str = "causal_lm()"
    strategy: str = "fedavg(lora='language', rows='language')"
    weights: str = "bytes()"
    outer: str = "mean()"
    guard: str = "none()"
    codec: str = "bfloat16()"
    broadcast: str = "float32()"
    schedule: str = "sync()"
    rounds: Whole = Field(12, ge=1)
    seed: Seed = Field(7, ge=0)
    home: str = ""
    model: Model = Model()
    train: Train = Train()
    alone: Alone = Alone()
    evaluate: Evaluate = Evaluate()
    simulation: Simulation = Simulation()


def _numbers(key: str, listed: str, below: float) -> list[float]:
    numbers = parted(listed)
    if not numbers or not all(0 < number < below for number in numbers):
        most = "" if below == math.inf else f" and below {below}"
        raise ConfigError(f"{key}={listed!r} must be numbers above 0{most} with commas between")
    return numbers


def flat(study: Study) -> dict[str, Scalar]:
    """Return the study as flat keys and scalars, the form in which Flower carries it."""
    pairs: dict[str, Scalar] = {}
    for key, value in study.model_dump().items():
        inner = value.items() if isinstance(value, dict) else ()
        pairs |= {f"{key}.{name}": scalar for name, scalar in inner} if inner else {key: value}
    return pairs


def from_flat(pairs: Mapping[str, Any]) -> Study:
    """Return the study with these flat keys, the rest at their defaults; raises ``ConfigError``."""
    known = flat(Study())
    nested: dict[str, Any] = {}
    for key, value in pairs.items():
        if key not in known:
            near = get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ConfigError(f"unknown key {key!r}; {hint}")
        table, _, name = key.rpartition(".")
        (nested.setdefault(table, {}) if table else nested)[name] = value
    try:
        return Study.model_validate(nested)
    except ValidationError as error:
        raise ConfigError(_plain(error)) from None


def _plain(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    return f"{key}={first['input']!r} is not allowed: {first['msg'][0].lower()}{first['msg'][1:]}"
