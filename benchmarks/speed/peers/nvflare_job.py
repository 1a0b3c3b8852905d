"""NVFlare 2.9: its FedAvg recipe in its simulator, a process a client."""

from __future__ import annotations

import json
import os

from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv

asked = json.loads(os.environ["SPEED"])
recipe = FedAvgRecipe(
    name="speed",
    min_clients=asked["silos"],
    num_rounds=asked["rounds"],
    model={"class_path": "plain.Adapter", "args": {"file": asked["workspace"] + "/start.pt"}},
    train_script="nvflare_client.py",
)
environment = SimEnv(
    num_clients=asked["silos"], num_threads=asked["silos"], workspace_root=asked["workspace"]
)
run = recipe.execute(environment)
print(run.get_status(), run.get_result())
