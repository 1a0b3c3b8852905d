"""What an actor of Ray does: it answers for all silos of a lot, and hands on what they log.

Its process stays from lot to lot, and so does the base that it loaded.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fl_server.simulation import lot
from fl_server.simulation.pool import LOGGER

KIND = "train.lot"
app = ClientApp()


@app.train("lot")
def visit(message: Message, _: Context) -> Message:
    """Answer for all silos of a lot, in an actor; or say why it cannot."""
    lot.identify()
    asked, together = lot.opened(message.content)
    home = Path(str(asked[0][1].run_config["home"]))
    if not (home / "provenance.json").exists():  # or what silos remember would lie on two machines
        why = f"{home} is not on every machine of the cluster; choose an --out that is"
        return Message(RecordDict({"lost": ConfigRecord({"why": why})}), reply_to=message)
    with _listening() as said:
        replies = lot.answer(asked, together)
    content = lot.joined(reply.content for reply in replies)
    content["said"] = ConfigRecord({"json": json.dumps(said)})
    return Message(content, reply_to=message)


@contextmanager
def _listening() -> Iterator[list[dict[str, Any]]]:
    """Give what the silos log meanwhile, each line as plain data."""
    said: list[dict[str, Any]] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            event = {"event": record.event} if hasattr(record, "event") else {}
            line = {"name": record.name, "levelno": record.levelno, "levelname": record.levelname}
            said.append(line | {"msg": self.format(record)} | event)

    logger, ear = logging.getLogger(LOGGER), Ear()
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(ear)
    try:
        yield said
    finally:
        logger.removeHandler(ear)
