"""How many silos train at once. It needs no Torch, and does not depend on how many processes there are.

On a CPU about a thousand tokens a step are best: fewer leave its units idle, of more the activations leave the cache.
Every core should have a cohort, or the time of a round is that of one.
"""

from __future__ import annotations

from fl_client.config import Train

TOKENS = 1024


def chosen(options: Train, silos: int, cores: int, tokens: int = TOKENS) -> int:
    """Return how many of so many silos to train at once, from 1: a thousand tokens a step, a cohort for each core."""
    rows = options.micro_batch or options.batch_size
    fits = max(1, round(tokens / (rows * options.length)))
    return min(fits, -(-silos // cores))
