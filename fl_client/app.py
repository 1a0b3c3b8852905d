"""The silo's side of Flower: a thin seam that imports no Torch. One function a kind of message."""

from __future__ import annotations

import logging
from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fl_client import config, messages, workers
from fl_client.messages import Fault
from fl_client.site import Place
from fl_client.workers import Job

LOG = logging.getLogger("bhasha_fl.silo")
app = ClientApp()

Handler = Callable[[Message, Context], Message]


def guarded(handler: Handler) -> Handler:
    """Answer with a code where a handler fails; the text of an exception never leaves the silo."""

    def handle(message: Message, context: Context) -> Message:
        try:
            return handler(message, context)
        except Exception as error:
            return failed(message, error)

    return handle


def failed(message: Message, error: Exception) -> Message:
    """Return the code of what went wrong; the rest stays in this silo's log."""
    if isinstance(error, Fault):
        LOG.error("%s", error)
        return messages.fault(message, error.code)
    LOG.error("this silo failed", exc_info=error)
    return messages.fault(message, "internal")


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
    return answered("initial", message, context)


@app.query("gradient")
@guarded
def gradient(message: Message, context: Context) -> Message:
    """Sketch the first gradients, for strategies that choose their subspace from data; nothing is trained."""
    return answered("gradient", message, context)


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
    result = workers.run("fit", job(message, context))
    facts = {name: result.facts[name] for name in ("silo", "round")}
    return messages.answer(message, result.metrics, facts, result.arrays, result.parcel)


TOGETHER: dict[str, workers.Kind] = {"train": "fit", "train.alone": "rail", "evaluate": "score"}


def together(asked: list[tuple[Message, Context]]) -> list[Message]:
    """Return the replies of several simulated silos to messages of one kind in ``TOGETHER``, worked for at once.

    Of a round that was trained they also say how.
    """
    jobs: dict[int, Job] = {}
    replies: dict[int, Message] = {}
    for at, (message, context) in enumerate(asked):
        try:
            jobs[at] = job(message, context)
        except Exception as error:
            replies[at] = failed(message, error)
    kind = TOGETHER[asked[0][0].metadata.message_type]
    outcomes: list[workers.Result | Exception]
    try:
        outcomes = workers.together(kind, list(jobs.values()))
    except Exception as error:
        outcomes = [error] * len(jobs)
    for at, done in zip(jobs, outcomes, strict=True):
        replies[at] = replied(kind, asked[at][0], done)
    return [replies[at] for at in range(len(asked))]


def replied(kind: workers.Kind, message: Message, done: workers.Result | Exception) -> Message:
    """Return the reply of a silo that was worked for beside others."""
    try:
        if isinstance(done, Exception):
            raise done
        arrays = done.arrays if kind == "fit" else None
        return messages.answer(message, done.metrics, done.facts, arrays)
    except Exception as error:
        return failed(message, error)


@app.train("second")
@guarded
def second(message: Message, context: Context) -> Message:
    """Answer the second pass of a round, from what training left on disk."""
    return answered("second", message, context)


@app.evaluate()
@guarded
def evaluate(message: Message, context: Context) -> Message:
    """Score the adapter received on held-out text."""
    result = workers.run("score", job(message, context))
    return messages.answer(message, result.metrics, result.facts)


def answered(kind: workers.Kind, message: Message, context: Context) -> Message:
    """Return the whole result of a kind of work as the answer to a message."""
    result = workers.run(kind, job(message, context))
    return messages.answer(message, result.metrics, result.facts, result.arrays, result.parcel)


def job(message: Message, context: Context) -> Job:
    """Return the work that a message asks for. Where the silo is stands in its own node configuration alone."""
    order, received = messages.read_order(message)
    study = config.from_flat(context.run_config)
    if "silo" in context.node_config:
        place = Place(silo=str(context.node_config["silo"]))
    else:
        place = Place(home=study.home, number=int(context.node_config["partition-id"]))
    offer = messages.offer_of(message.content)
    return Job(study, place, order, received, offer.parcel if offer else None)
