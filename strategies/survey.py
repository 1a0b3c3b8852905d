"""A survey: before round 1 silos sketch their first gradients, and the hub chooses subspaces from the sum.

Of the gradient G of an adapted matrix (m x n) a silo tells P^T G (2r x n) and, where both sides are wanted, G Q^T
(m x 2r), with signs P and Q that follow from the study's seed (Halko, Martinsson & Tropp 2011, arXiv 0909.4061). Both
are linear in G: the sum of the silos' sketches is the sketch of the sum, and goes through the accumulator.

A sketch is named and shaped as the factors of a LoRA pair of twice the rank, and it is a gradient of such a pair too:
P^T G that of A where B = P and A = 0, G Q^T that of B where A = Q and B = 0. So nobody ever forms G. It is told as
plain float32, beside the codec. Like any gradient it may give away text, here for once of a silo's untrained start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from strategies import product, widths
from strategies.adapter import Adapter, Array, Layout, part
from strategies.subspace import signs

TIMES = 2  # how many times the rank of the adapter a sketch has


class Survey(NamedTuple):
    """Which parts of an adapter begin at what the hub found, and ``found(sketches, start, key)``, the adapter then.

    Of ``parts`` silos sketch A and B. ``sketches`` holds their mean in a group, nothing where none of its silos told
    any; ``start`` is the seeded adapter of the group, whole or in part. All ``parts`` go down in every round, trained
    or not: silos cannot make them.
    """

    parts: tuple[str, ...]
    found: Callable[[Adapter, Adapter, str], Adapter]


def sketched(survey: Survey, shapes: Layout) -> Layout:
    """Return the shapes of the sketches that a silo tells of an adapter of these shapes."""
    rank = max((shape[0] for name, shape in shapes.items() if part(name) == "A"), default=0)
    wide = widths.of(shapes, TIMES * rank)
    return {n: wide[n] for n in sorted(wide) if part(n) in {"A", "B"} & set(survey.parts)}


def frame(name: str, shapes: Layout, seed: int) -> Array:
    """Return the factor beside which the gradient of ``name`` at zero is its sketch: P for A, Q for B; float32."""
    rank = TIMES * next(shape[0] for n, shape in shapes.items() if part(n) == "A")
    module = name.removesuffix(product.A).removesuffix(product.B)
    other = module + (product.B if part(name) == "A" else product.A)
    return signs(widths.of({other: shapes[other]}, rank)[other], f"{seed}:sketch:{name}")
