"""A mean over seeds and how well it is known: the 95 % confidence interval of Student's t."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import NamedTuple

# The 97.5 % quantile by degrees of freedom; between two of the last ones that of the fewer, which is the wider.
STUDENT = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
)  # fmt: skip
MORE = ((120, 1.9799), (60, 2.0003), (40, 2.0211), (30, 2.0423), (25, 2.0595), (20, 2.0860))


class Interval(NamedTuple):
    """The values of all seeds in their order, their mean, and half the width of its interval: None for one seed."""

    values: list[float]
    mean: float
    half: float | None


def interval(values: Sequence[float | None]) -> Interval | None:
    """Return the mean of a value over seeds with its interval, None where a seed lacks it."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    if len(known) == 1:
        return Interval(known, known[0], None)
    half = student(len(known) - 1) * stdev(known) / sqrt(len(known))
    return Interval(known, fmean(known), half)


def student(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t with so many degrees of freedom, 1 or more."""
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    return next(quantile for least, quantile in MORE if freedom >= least)
