"""How many silos train at once, and which never do. It needs no Torch.

On a CPU about a thousand tokens a step are best: fewer leave its units idle, of more the activations leave the cache.
There should be a cohort for every core, or the time of a round is that of one; how many processes use the cores does
not matter, for a seed means the same bits however many there are. On a GPU free memory is the limit.
"""

from __future__ import annotations

from fl_client import footprint, rows, shapes, site, spec
from fl_client.config import ConfigError, Study
from fl_client.footprint import Room
from strategies import scope
from strategies.strategy import Strategy

TOKENS, MOST = 1024, 1 << 16  # tokens a step: on a CPU, and where a GPU has no more to gain
BESIDE = 1.5  # the base, and its weights as they enter products, in bfloat16
SHARE = 0.7  # of a GPU's free memory: the estimate is right within a factor of one and a half


def chosen(study: Study, silos: int, cores: int, free: int = 0) -> int:
    """Return how many of so many silos train at once, from 1; ``free`` is a GPU's free memory in bytes."""
    options = study.train
    tokens = (options.micro_batch or options.batch_size) * options.length
    if not free:
        return min(max(1, round(TOKENS / tokens)), -(-silos // cores))
    return max(1, min(silos, MOST // tokens, _held(study, free)))


def _held(study: Study, free: int) -> int:
    try:
        shape = shapes.read(study.model.base)
    except ConfigError:  # as of a GGUF file by itself: nobody knows what a step takes
        return 1
    spoken = site.named(study.simulation.languages)
    scripts = scope.scripts(spoken) if spoken else ",".join(rows.SCRIPT_NAMES)
    tensors = shapes.adapter(shape, study.model, study.model.base, scripts)
    need = footprint.need(shape, tensors, study, Room(free, 1, True))
    left = SHARE * free - BESIDE * need.base  # it is not loaded yet where this is asked
    return int(left) // (need.adapter + need.activations + need.logits)


def apart(study: Study) -> str:
    """Return why the silos of a study never train together, empty where they can."""
    strategy: Strategy = spec.build(study.strategy, "strategy")
    reasons = {
        "the base is quantized": study.model.quantization != "none",
        "cores are trained": strategy.domain == "core",
        "train.parallel is another than ddp()": study.train.parallel != "ddp()",
    }
    return next((reason for reason, holds in reasons.items() if holds), "")
