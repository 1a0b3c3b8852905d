"""EF21: a silo sends by how much its update differs from what the hub believes of it (Richtarik et al. 2021,
arXiv 2106.05203, algorithm 2; with silos that are away as in EF21-PP, Fatkhullin et al. 2021, arXiv 2110.03294).

With g_k the update of silo k as the hub has it: c_k = Q(x_k - g_k), and both sides go on with g_k + c_k. The hub moves
by the mean of all g_k, also of silos that are away. Nothing is left out for good and no residual grows, but what the
hub has of a silo may be rounds old. In a chain it stands first: ``ef21() | topk(0.05) | int4()``.

Departs from the paper: x is a whole round of local steps, not a gradient.
"""

from __future__ import annotations

from strategies.codecs.codec import Codec
from strategies.codecs.float32 import float32


def ef21() -> Codec:
    """Send the change of the update since the silo was last heard, by the codecs behind it."""
    return float32()._replace(tracks=True)
