"""What a sweep tries: strategies, learning rates and seeds."""

from __future__ import annotations

from typing import NamedTuple

from fl_client.config import ConfigError, Study
from fl_client.numbers import LAST
from fl_server.simulation import cells

FEWEST = 3  # rates: with fewer, a method that is tuned badly looks like one that is bad


class Choices(NamedTuple):
    """What is swept, each without repetition; rates from low to high."""

    strategies: list[str]
    rates: list[float]
    seeds: list[int]
    first: bool = False  # the rate is chosen with the first seed alone


def choices(
    study: Study, strategies: list[str], rates: str = "", seeds: str = "", first: bool = False
) -> Choices:
    """Return what to sweep; raises ``ConfigError``. By default the rates of ``alone.rates`` and three seeds."""
    cells.distinct(strategies)
    given = (
        study.alone.model_copy(update={"rates": rates}).lrs("--rates")
        if rates
        else study.alone.lrs()
    )
    numbers = seeds or ",".join(str(study.seed + n) for n in range(3))
    if not all(n.strip().isdecimal() and int(n) <= LAST for n in numbers.split(",")):
        raise ConfigError(
            f"--seeds {numbers!r} must be whole numbers from 0 to {LAST} with commas between, as in 7,8,9"
        )
    if len(set(given)) < FEWEST:
        raise ConfigError(
            f"--rates {','.join(f'{rate:g}' for rate in given)} are fewer than {FEWEST} learning rates; "
            "give more, a method is only as good as its rate"
        )
    distinct = dict.fromkeys(int(number) for number in numbers.split(","))
    return Choices(list(dict.fromkeys(strategies)), sorted(set(given)), list(distinct), first)
