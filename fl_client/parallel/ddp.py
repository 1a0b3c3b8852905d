"""Data parallel: every rank holds the whole model, and gradients are summed over the ranks in each step.

Torch's DistributedDataParallel (Li et al. 2020, arXiv 2006.15704), with one bucket: an adapter is small, so that its
one message leaves when the backward has ended, and its time can be told from that of the work.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from fl_client.parallel.parallel import Parallel, Team

if TYPE_CHECKING:
    from fl_client.config import Train
    from fl_client.gauge import Gauge
    from fl_client.model import Warm
    from fl_client.optimizer import Optimizer


def ddp() -> Parallel:
    """Sum the gradients of all ranks in every step."""
    return Parallel(_join)


def _join(made: Warm, used: Optimizer, options: Train, gauge: Gauge) -> Team:
    from torch.nn.parallel import DistributedDataParallel

    from fl_client import ranks

    if ranks.world() == 1:
        return Team(made.model)
    size = sum(p.numel() * p.element_size() for p in used.parameters)
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    frozen: dict[str, Any] = {name: False}  # Torch renamed the option
    model = DistributedDataParallel(
        made.model,
        process_group=ranks.data(),
        init_sync=False,  # all ranks read the same base and the same adapter
        bucket_cap_mb=size / 2**20 + 1,
        **frozen,
    )
    model.register_comm_hook(None, lambda _, bucket: _sum(gauge, bucket))
    return Team(model, quiet=model.no_sync, close=model._remove_autograd_hooks)


def _sum(gauge: Gauge, bucket: Any) -> Any:
    """Sum a bucket over the ranks. No mean: each loss is already divided by the tokens of the whole batch."""
    import torch
    import torch.distributed as dist

    from fl_client import ranks

    flat = bucket.buffer()
    with gauge.talking():
        dist.all_reduce(flat, group=ranks.data())
    done: Any = torch.futures.Future(devices=[flat.device] if flat.is_cuda else [])
    done.set_result(flat)
    return done
