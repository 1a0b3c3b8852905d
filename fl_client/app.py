"""The silo's side of Flower: a thin seam that imports no Torch. One function a kind of message."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fl_client import config, memory, messages, site, spec, workers
from fl_client.messages import Fault
from fl_client.workers import Job
from strategies import adapter as algebra
from strategies.strategy import Strategy

LOG = logging.getLogger("bhasha_fl.silo")
app = ClientApp()

Handler = Callable[[Message, Context], Message]


def guarded(handler: Handler) -> Handler:
    """Answer with a code where a handler fails; the text of an exception never leaves the silo."""

    def handle(message: Message, context: Context) -> Message:
        try:
            return handler(message, context)
        except Fault as error:
            LOG.error("%s", error)
            return messages.fault(message, error.code)
        except Exception:
            LOG.exception("this silo failed")
            return messages.fault(message, "internal")

    return handle


@app.query()
@guarded
def card(message: Message, context: Context) -> Message:
    """Say who this silo is: its name, its counts by language, the hash of its base."""
    result = workers.run("count", job(message, context))
    return messages.answer(message, result.metrics, result.facts)


@app.query("initial")
@guarded
def initial(message: Message, context: Context) -> Message:
    """Make the seeded adapter that everyone starts from."""
    result = workers.run("initial", job(message, context))
    return messages.answer(message, result.metrics, result.facts, result.arrays)


@app.train("alone")
@guarded
def alone(message: Message, context: Context) -> Message:
    """Train alone, for the safety rail; only numbers leave."""
    result = workers.run("rail", job(message, context))
    return messages.answer(message, result.metrics, result.facts)


@app.train()
@guarded
def train(message: Message, context: Context) -> Message:
    """Train one round and send the encoded update. What must be remembered is on disk before the reply leaves."""
    work = job(message, context)
    strategy: Strategy = spec.build(work.study.strategy, "strategy")
    result = workers.run("fit", work)
    delta = algebra.under("delta/", result.arrays)
    local = algebra.under("local/", work.memory) or strategy.local.init(delta)
    delta, local = strategy.local.finish(delta, local)
    codec = spec.codec(work.study.codec)
    vector = algebra.flatten(delta)
    residual = work.memory.get("residual", codec.init(vector.size))
    if residual.shape not in {vector.shape, (0,)}:
        LOG.warning("%s: the codec's residual does not fit and starts from zero", work.site.name)
        residual = codec.init(vector.size)
    try:
        wire, residual = codec.encode(vector, residual)
    except ValueError as error:
        raise Fault("not_finite", str(error)) from error
    kept = {n: x for n, x in result.arrays.items() if not n.startswith("delta/")}
    kept |= {f"local/{n}": x for n, x in local.items()} | {"residual": residual}
    memory.keep(work.home, work.order.round, kept, work.order.best)
    facts = {"silo": work.site.name, "round": work.order.round}
    return messages.answer(message, result.metrics, facts, wire)


@app.evaluate()
@guarded
def evaluate(message: Message, context: Context) -> Message:
    """Score the adapter received on held-out text."""
    result = workers.run("score", job(message, context))
    return messages.answer(message, result.metrics, result.facts)


def job(message: Message, context: Context) -> Job:
    """Return the work that a message asks for, with the silo's own text, folder and memory."""
    order, received = messages.read_order(message)
    study = config.from_flat(context.run_config)
    try:
        sites = site.simulated(study)
    except spec.SpecError:
        raise
    except config.ConfigError as error:
        raise Fault("text_missing", str(error)) from error
    own = sites[int(context.node_config["partition-id"]) % len(sites)]
    home = Path(study.home) / "silos" / own.name
    return Job(study, own, home, order, received, memory.recall(home, order.round))
