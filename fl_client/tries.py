"""What a silo tries by itself: from which adapter, at which learning rates, and what it learns beside its text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from strategies.adapter import Adapter, part


class Lesson(NamedTuple):
    """The part of what is learned that is not the text itself but what ``teachers`` expect of it, in the mean.

    A teacher is an adapter of the same tensors as the one that learns.
    """

    share: float = 0.0
    teachers: tuple[Adapter, ...] = ()


NO_LESSON = Lesson()


class Begins(NamedTuple):
    """The learning rates that are tried, what each begins from, empty for the base, and what each is taught."""

    lrs: Sequence[float]
    adapter: Adapter = {}
    lessons: Sequence[Lesson] = ()  # one a rate, or none

    def lesson(self, number: int) -> Lesson:
        """Return what the try of this number is taught."""
        return self.lessons[number] if self.lessons else NO_LESSON

    def merged(self) -> Adapter:
        """Return what was merged into the base before: nobody trains it."""
        return {name: x for name, x in self.adapter.items() if part(name) == "merged"}


def distilling(alone: Adapter, adapted: Adapter, lr: float, shares: Sequence[float]) -> Begins:
    """Return the tries of a silo that goes on from what it reached alone and adapted, at ``lr`` alone.

    They begin in the middle of both, factor by factor: both were trained from the same start on the same text, where
    such a mean is as good as either or better (Wortsman et al. 2022, arXiv 2203.05482). Both teach (Hinton et al. 2015,
    arXiv 1503.02531; several at once as in Lin et al. 2020, arXiv 2006.07242), with each share of ``shares``, which
    times ``lr`` is the learning rate: the less the text itself is learned, the later it is learned by heart.
    """
    middle = {name: (x + alone[name]) / 2 for name, x in adapted.items()}
    lessons = [Lesson(share, (alone, adapted)) for share in shares]
    return Begins([lr * share for share in shares], middle, lessons)
