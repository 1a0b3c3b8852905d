"""Fully sharded: no rank holds the whole base. Its frozen layers are gathered one at a time, as they are needed.

Torch's FSDP2 (Zhao et al. 2023, arXiv 2304.11277). The adapter is small and stays whole on every rank, so that only
its gradients are summed; the base has none. The gathering of layers runs beside the work and is not told apart from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fl_client.config import ConfigError
from fl_client.parallel.parallel import Parallel, Team

if TYPE_CHECKING:
    from fl_client.config import Train
    from fl_client.gauge import Gauge
    from fl_client.model import Warm
    from fl_client.optimizer import Optimizer


def fsdp() -> Parallel:
    """Shard the frozen base over the ranks."""
    return Parallel(_join, sharded=True)


def _join(made: Warm, used: Optimizer, options: Train, gauge: Gauge) -> Team:
    import torch

    from fl_client import ranks

    if ranks.world() == 1:
        return Team(made.model)
    if not made.sharded:
        raise ConfigError("train.parallel='fsdp()' needs a base that was loaded for it")

    def gather() -> None:
        for p in used.parameters:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        with gauge.talking():
            ranks.add([p.grad for p in used.parameters if p.grad is not None])

    return Team(made.model, gather=gather)


def shard(model: Any, adapter: list[Any], device: Any) -> None:
    """Spread the layers of a base that lies on the CPU over the ranks, and move the rest to this rank's device.

    All ranks do this together, and every later forward too.
    """
    import torch
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    from fl_client import ranks

    for p in adapter:
        p.data = p.data.to(device)
    mesh = DeviceMesh.from_group(ranks.data(), device.type)
    for layer in [*_layers(model), model]:
        fully_shard(layer, mesh=mesh, ignored_params=set(adapter))
    with (
        torch.no_grad()
    ):  # the first gathering must not be one in inference mode: its buffers serve training too
        model(input_ids=torch.zeros((1, 2), dtype=torch.int64, device=device), use_cache=False)


def _layers(model: Any) -> list[Any]:
    """Return the repeated blocks of a model: the members of its longest list of modules."""
    import torch

    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList)]
    return list(max(lists, key=len, default=[]))
