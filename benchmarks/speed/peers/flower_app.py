"""Flower 1.41: FedAvg, and a ClientApp that loads base and adapter for each message, as its own LLM examples do."""

from __future__ import annotations

from pathlib import Path

import plain
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Train one silo in one round."""
    config, silo = context.run_config, int(context.node_config["partition-id"])
    model = plain.load(config["base"])
    plain.write(model, message.content["arrays"].to_torch_state_dict())
    text = plain.blocks(config["base"], config["data"], silo, config["length"])
    plain.train(model, text, config["steps"], config["bf16"])
    arrays, metrics = ArrayRecord(plain.read(model)), MetricRecord({"num-examples": len(text)})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run FedAvg over all silos."""
    config = context.run_config
    start = ArrayRecord(plain.read(plain.load(config["base"])))
    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=config["silos"])
    result = strategy.start(grid=grid, initial_arrays=start, num_rounds=config["rounds"])
    Path(config["out"]).write_text(f"{len(result.arrays)} tensors")
