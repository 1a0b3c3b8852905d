"""NVFlare 2.9: its FedAvg recipe in its simulator, a process a client."""

from __future__ import annotations

import json
import sys

import plain
import torch
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv

asked = json.loads(sys.argv[1])
start = asked["workspace"] + "/start.pt"
torch.save(plain.read(plain.load(asked["base"])), start)
recipe = FedAvgRecipe(
    name="speed",
    min_clients=asked["silos"],
    num_rounds=asked["rounds"],
    model={"class_path": "plain.Adapter", "args": {"file": start}},
    train_script="nvflare_client.py",
    train_args=json.dumps(asked).replace('"', "~").replace(" ", ""),
)
environment = SimEnv(
    num_clients=asked["silos"], num_threads=asked["silos"], workspace_root=asked["workspace"]
)
run = recipe.execute(environment)
print(run.get_status(), run.get_result())
