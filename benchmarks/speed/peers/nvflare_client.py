"""NVFlare 2.9: a client of its Client API in a process of its own; the base is loaded once a process."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nvflare.client as flare
import plain
import torch

asked = json.loads(os.environ["SPEED"])
flare.init()
site = flare.get_site_name()
model = plain.load(asked["base"])
silo = int(site.rpartition("-")[2]) - 1
text = plain.blocks(asked["base"], asked["data"], silo, asked["length"])
while flare.is_running():
    received = flare.receive()
    state = {k.replace("__", "."): torch.as_tensor(x) for k, x in received.params.items()}
    plain.write(model, state)
    plain.train(model, text, asked["steps"], asked["bf16"])
    state = {k.replace(".", "__"): x for k, x in plain.read(model).items()}
    flare.send(flare.FLModel(params=state, metrics={"accuracy": 0.0}))
    with Path(asked["workspace"], f"told-{site}.txt").open("a") as told:
        told.write("a round\n")
