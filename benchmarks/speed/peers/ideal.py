"""The ideal of one process: one base loaded once, adapters swapped, a plain loop. Writes what it took as JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import plain
import torch


def main(asked: dict[str, object]) -> None:
    """Train every silo for some steps from one adapter, several rounds; the first warms up."""
    base, data, bf16 = str(asked["base"]), str(asked["data"]), bool(asked["bf16"])
    silos, steps, rounds = (int(str(asked[key])) for key in ("silos", "steps", "rounds"))
    torch.set_num_threads(int(str(asked["threads"])))
    model = plain.load(base)
    start, length = plain.read(model), int(str(asked["length"]))
    texts = [plain.blocks(base, data, silo, length) for silo in range(silos)]
    wall, cpu = [], []
    for _ in range(rounds):
        began, used = time.perf_counter(), time.process_time()
        total: dict[str, torch.Tensor] = {name: torch.zeros_like(x) for name, x in start.items()}
        for text in texts:
            plain.write(model, start)
            plain.train(model, text, steps, bf16)
            for name, x in plain.read(model).items():
                total[name] += x
        start = {name: x / silos for name, x in total.items()}
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
    told = {"wall_s": wall[1:] or wall, "cpu_s": cpu[1:] or cpu}
    Path(str(asked["out"])).write_text(json.dumps(told))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
