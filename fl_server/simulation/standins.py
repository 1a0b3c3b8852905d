"""What stands in for silos in a rehearsal: they train nothing, and answer as silos do, in arrays of a few numbers.

The hub's own code sends, checks, sums and commits; only sizes and times are those of the study. So the adapter is cut
to one module and to ``FEW`` numbers a side, and what travels is billed by ``forecast`` for the whole one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fl_client import messages, site
from fl_client.config import ConfigError, Study
from fl_client.messages import Order
from fl_server import adapter_config, config, forecast, lines, outlook, paces
from fl_server.forecast import Leg
from fl_server.outlook import Known
from fl_server.paces import FLOOR_S, Pace, Power
from fl_server.simulation.seats import Seat
from strategies import adapter as algebra
from strategies import survey
from strategies.adapter import Adapter, Layout
from strategies.codecs.codec import Key
from strategies.combine import Parts

FEW = 8
LIST_PRICE = 1 << 62  # bytes that a hub's disk has for a reply: not what a rehearsal is about


class Bill(NamedTuple):
    """What one message costs a silo: bytes down and up, and seconds of its own work between them."""

    down: int
    up: int
    work_s: float


class Costs(NamedTuple):
    """What the messages of a study cost each silo."""

    legs: dict[str, list[Leg]]
    ahead: int
    once: forecast.Trip
    paces: dict[str, Pace]
    final: int  # how often a silo scores at the end, for once in a round
    steps: int  # of training in a round

    def bill(self, silo: str, kind: str, order: Order) -> Bill:
        """Return what a message of a kind costs this silo."""
        pace, legs = self.paces[silo], self.legs[silo]
        coming, gone = legs[min(order.after, len(legs) - 1)], legs[order.after - 1]
        scored = gone.score if order.after else coming.start
        each = FLOOR_S / 2  # a round is two messages
        trains = pace.train_s * (order.steps or self.steps) / self.steps
        found = {
            "query": Bill(0, 0, 0.0),
            "query.initial": Bill(0, self.once.up, 0.0),
            "query.gradient": Bill(0, self.ahead, pace.train_s),
            "train.alone": Bill(0, 0, pace.alone_s),
            "train": Bill(coming.start, coming.up, each + trains),
            "train.second": Bill(coming.asked, coming.answer, 0.0),
            "evaluate": Bill(scored, 0, each + pace.score_s),
        }[kind]
        if not order.final:
            return found
        if kind == "train.alone":
            return Bill(self.once.down, 0, pace.adapt_s)
        return Bill(0 if pace.adapt_s else self.once.down, 0, self.final * pace.score_s)


class Cast(NamedTuple):
    """The silos of a rehearsal: their languages, the small study that the hub runs with them, what all costs."""

    languages: dict[str, str]
    study: Study
    parts: Parts
    start: Adapter
    costs: Costs

    def answer(self, silo: str, message: Any) -> Any:
        """Return what this silo answers to a message."""
        order, _ = messages.read_order(message)
        kind, number = message.metadata.message_type, order.turn
        if kind == "query":
            spoken = {self.languages[silo]: [1, 1, 1, 1]}
            return messages.answer(message, {}, {"silo": silo, "languages": spoken, "base": ""})
        if kind == "query.initial":
            return messages.answer(message, {}, *_first(self.start))
        if kind == "query.gradient":
            wanted = self.parts.strategy.survey
            shapes = survey.sketched(wanted, algebra.layout(self.start)) if wanted else {}
            sketches = self._drawn(shapes, silo, 0)
            return messages.answer(message, {}, {"silo": silo, "round": 0}, sketches)
        if kind in ("train", "train.second"):
            arrays = self._update(silo, number, order.sketch, kind != "train")
            return messages.answer(message, {}, {"silo": silo, "round": number}, arrays)
        return messages.answer(message, {}, {})

    def _update(self, silo: str, number: int, sketch: int, second: bool) -> Adapter:
        strategy, shapes = self.parts.strategy, algebra.layout(self.start)
        shapes |= {own: shapes[name] for own, name in strategy.beside(shapes).items()}
        sent = {name: s for name, s in shapes.items() if strategy.sent(name, number)}
        if strategy.passes:
            sent = strategy.passes.layouts(sent, sketch)[second]
        vector = algebra.flatten(self._drawn(sent, silo, number))
        codec, key = self.parts.codec, Key(self.study.seed, number, silo)
        return codec.encode(vector, codec.init(vector.size), key)[0]

    def _drawn(self, shapes: Layout, silo: str, number: int) -> Adapter:
        seed = [self.study.seed, number, *silo.encode()]
        draw = np.random.default_rng(seed)
        return {n: draw.normal(0, 1e-3, s).astype(np.float32) for n, s in sorted(shapes.items())}


def cast(study: Study, seats: list[Seat]) -> Cast:
    """Return the stand-ins of these silos, languages dealt in turn; raises ``ConfigError`` where parts do not fit."""
    spoken = site.named(study.simulation.languages)
    if not spoken:
        raise ConfigError(
            "simulation.languages names no language, and who merges with whom hangs on it; "
            "set those of your silos, such as --set simulation.languages=as,ne"
        )
    languages = {seat.silo: spoken[k % len(spoken)] for k, seat in enumerate(seats)}
    known = [Known(name, "", (lang,), lang, None, Power()) for name, lang in languages.items()]
    found = outlook.outlook(study, known, LIST_PRICE)
    model = study.model.model_copy(update={"rank": min(FEW, study.model.rank)})
    simulation = study.simulation.model_copy(update={"ranks": ""})
    small = study.model_copy(update={"model": model, "simulation": simulation})
    parts, _ = config.build(small)
    rail = study.alone
    blends = len(rail.shares()) * (1 + rail.adapt) if rail.enabled else 0
    costs = Costs(
        legs=_legs(study, parts, found, seats),
        ahead=forecast.ahead(parts.strategy, found.tensors).up,
        once=found.once,
        paces={s.silo: _pace(found, parts, s) for s in seats},
        # base, together, alone, adapted and the best blend on two splits, every blend on one
        final=9 + blends,
        steps=study.train.steps,
    )
    shared = {n: s for n, s in found.tensors.items() if parts.strategy.scope(n) != "silo"}
    return Cast(languages, small, parts, _start(shared, study.seed), costs)


def _legs(
    study: Study, parts: Parts, found: outlook.Outlook, seats: list[Seat]
) -> dict[str, list[Leg]]:
    """Return the bytes of each silo's rounds, within its budget; raises ``ConfigError`` where the least is over it."""
    by_budget: dict[int, list[Leg]] = {}
    for silo, _, profile in seats:
        most = profile.line.round_bytes
        if most in by_budget:
            continue
        try:
            by_budget[most] = forecast.legs(study, parts.strategy, found.tensors, len(seats), most)
        except ValueError:
            wrong, remedy = lines.short(profile.line)
            raise ConfigError(f"{silo}: {wrong}; {remedy}") from None
    return {silo: by_budget[profile.line.round_bytes] for silo, _, profile in seats}


def _pace(found: outlook.Outlook, parts: Parts, seat: Seat) -> Pace:
    power = seat.profile.power
    pace = paces.of(found.study, parts.strategy, found.shape, power, found.round, 1)
    if pace is None:
        raise AssertionError("a profile has a core at least")
    return pace


def _first(start: Adapter) -> tuple[dict[str, Any], Adapter]:
    """Return what a silo says of an adapter, its modules by their whole names, and what it sends of it."""
    tokens = np.arange(adapter_config.learned_rows(start), dtype=np.int32)
    said = {"peft": {"target_modules": sorted(adapter_config.modules(start))}}
    return said, start | ({messages.TOKENS: tokens} if tokens.size else {})


def _start(tensors: Layout, seed: int) -> Adapter:
    """Return a seeded adapter like this one of a single module, with its token rows, of a few numbers a side."""
    module = tuple(f"{name}." for name in sorted({n.split(".lora_")[0] for n in tensors})[:1])
    kept = {n for n in tensors if algebra.part(n) == "rows" or n.startswith(module)}
    small = {n: tuple(min(FEW, side) for side in tensors[n]) for n in sorted(kept)}
    return {n: algebra.initial(n, shape, seed) for n, shape in small.items()}
