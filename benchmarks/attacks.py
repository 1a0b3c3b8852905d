"""What one hostile silo costs the others, under each guard: ``python -m benchmarks.attacks``.

The real apps in one process, on the demonstration base and the built-in corpus. The hostile silo trains as the others
do and changes what it sends; the figure is the bits per byte that the honest silos reach on their validation text
in the last round, over those of a run in which nobody is hostile and nothing is guarded.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from benchmarks.figures import Figure, at_most, report, write
from fl_client import messages, model
from fl_client.app import app as honest
from fl_client.config import Study, flat, from_flat
from fl_server import record
from fl_server.app import app as hub
from fl_server.simulation import grid
from strategies import adapter as algebra
from strategies.adapter import Adapter
from strategies.product import Factors, pairs, tensors

HOSTILE = 2  # the silo that attacks, by number
GUARDS = {
    "none()": 5,
    "norm_clip()": 5,
    "median()": 5,
    "trimmed_mean(0.2)": 5,
    "multi_krum(f=1)": 5,
}
GUARDS |= {"bulyan(f=1)": 7}  # which needs 4 f + 3 silos
STUDY = {
    "strategy": "fedavg(lora='language', rows='language')",
    "weights": "uniform()",
    "codec": "float32()",
    "schedule": "sync(quorum=0.5)",  # a reply may be refused outright
    "rounds": 3,
    "train.steps": 4,
    "train.batch_size": 4,
    "train.length": 64,
    "train.dtype": "float32",
    "alone.enabled": False,
    "evaluate.every": 3,
    "evaluate.characters": 500,
    "simulation.languages": "as",
    "simulation.characters": 12000,
}
Attack = Callable[[Adapter, Adapter], Adapter]  # (update, start) -> what is sent instead


def scaled(factor: float) -> Attack:
    """Return the attack that sends the update times a number."""
    return lambda update, start: {n: np.float32(factor) * x for n, x in update.items()}


def gauged(c: float) -> Attack:
    """Return the attack that sends the same products through other factors: (c B, A / c)."""

    def attack(update: Adapter, start: Adapter) -> Adapter:
        end = algebra.add(start, update)
        other = tensors({name: Factors(c * f.b, f.a / c) for name, f in pairs(end).items()})
        return algebra.subtract(end | other, start)

    return attack


ATTACKS: dict[str, Attack] = {
    "sign flip x10": scaled(-10),
    "x100": scaled(100),
    "gauge c=100": gauged(100),
}


def client(study: Study, attack: Attack) -> ClientApp:
    """Return the silos' app, in which one silo attacks."""
    made = ClientApp()
    made.query()(honest)
    made.query("initial")(honest)
    made.evaluate()(honest)

    @made.train()
    def train(message: Message, context: Context) -> Message:
        reply = honest(message, context)
        if context.node_id != HOSTILE:
            return reply
        (order, received), said = messages.read_order(message), messages.read_reply(reply)
        warm = model.warm(study.model, 0, order.scripts, study.seed, study.train.parallel)
        start = warm.start | received
        update = attack(algebra.unflatten(said.arrays["values"], algebra.layout(start)), start)
        sent = said.arrays | {"values": algebra.flatten(update)}
        return messages.answer(message, said.metrics, said.facts, sent)

    return made


def reached(guard: str, silos: int, attack: Attack | None) -> float:
    """Return the bits per byte that the honest silos reach in the last round."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "run"
        own = {"guard": guard, "simulation.silos": silos, "home": str(home)}
        study = from_flat(STUDY | own)
        record.claim(home, study, resume=False)
        app = client(study, attack) if attack else honest
        grid.run(hub, app, silos, flat(study))
        last = record.lines(home)[-1]["silos"]
    scores = [note["valid"]["as"] for name, note in last.items() if name != f"as-{HOSTILE}"]
    return float(np.mean([score["bits"] / score["bytes"] for score in scores]))


def main() -> None:
    """Run every guard against every attack and write benchmarks/results/attacks.json."""
    clean = {silos: reached("none()", silos, None) for silos in sorted(set(GUARDS.values()))}
    figures: list[Figure] = []
    for silos, value in clean.items():
        figures.append(report(f"clean run of {silos} silos, no guard", value, "bits per byte"))
    for guard, silos in GUARDS.items():
        found = {name: reached(guard, silos, attack) for name, attack in ATTACKS.items()}
        if guard != "none()":
            found["nobody"] = reached(guard, silos, None)
        for name, value in found.items():
            label = (
                f"{guard}, 1 hostile of {silos}: {name}"
                if name in ATTACKS
                else f"{guard}, nobody hostile"
            )
            above = 100 * (value / clean[silos] - 1)
            figures.append(
                report(label + ", above clean", above, "%")
                if guard == "none()"
                else at_most(label + ", above clean", above, "%", 2)
            )
            print(f"{label}: {above:+.1f} %", flush=True)
    write("attacks", figures, "python -m benchmarks.attacks")


if __name__ == "__main__":
    main()
