"""``fl-client doctor``: is this silo ready? Every line green or red, and for a red one what to do about it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from fl_client import children, contact, enrol, frames, join, machine, silo, sockets, volume
from fl_client.checks import folder as files
from fl_client.checks import hub, packages, pinned, room, text
from fl_client.checks.check import Check, failed
from fl_client.checks.text import Counted
from fl_client.config import ConfigError, Study, from_flat
from fl_client.machine import Machine
from fl_client.plain import errors, sentence
from fl_client.silo import Settings
from strategies import adapter as algebra
from strategies import scope

FIRST, MOST, MEASURED_S = (
    64 << 10,
    8 << 20,
    3.0,
)  # bytes of the first probe and the most, and how long
Say = Callable[[str], None]
Value = TypeVar("Value")
app = typer.Typer()


class Silo(NamedTuple):
    """What the later checks need of the earlier ones."""

    folder: Path
    own: Settings
    study: Study
    machine: Machine
    counted: Counted | None
    running: int


@app.command()
def doctor(
    folder: Annotated[Path, typer.Option("--dir", help="The silo's folder, made by join.")] = Path(
        "silo"
    ),
    rank: Annotated[
        int, typer.Option(min=1, max=1024, help="The rank of the adapter to plan memory for.")
    ] = Study().model.rank,
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Check this silo from end to end and say what to do about what is wrong. Exit code 1 if anything is."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched from anywhere
    done: list[Check] = []
    with errors():
        if not folder.is_dir():
            raise ConfigError(
                f"there is no folder {folder}; `fl-client join KIT` makes a silo's folder"
            )
        study = from_flat({"model.rank": rank})
        console = Console(highlight=False, soft_wrap=True)
        with Console(stderr=True).status("looking") as status:
            for check in checks(folder.absolute(), study, status.update):
                done.append(check)
                if not as_json:
                    console.print(line(check))
    red = [check for check in done if not check.ok]
    if as_json:
        print(json.dumps({"ok": not red, "checks": [c._asdict() for c in done]}))  # noqa: T201
    else:
        console.print(f"{len(red)} of {len(done)} need you" if red else "all is well")
    raise typer.Exit(1 if red else 0)


def line(check: Check) -> Text:
    """Return a check as one green line, or a red one with what to do under it."""
    sign, colour = ("ok   ", "green") if check.ok else ("wrong", "red")
    shown = Text.assemble((sign, f"bold {colour}"), f"  {check.name:<12} {check.found}")
    return shown if check.ok else shown.append(f"\n         -> {check.remedy}", colour)


def checks(folder: Path, study: Study, say: Say) -> Iterator[Check]:
    """Yield every check of a silo, one after another; those that need settings only where these can be read."""
    say("looking at what is installed")
    yield packages.flower()
    yield packages.torch()
    say("looking at this machine")
    seen = machine.look(folder, gpus=True)
    yield room.processors(seen)
    yield files.key(folder)
    settings = files.settings(folder)
    yield settings
    if not settings.ok:
        return
    own = silo.read(folder)
    yield files.allowed(folder, own, study.model.rank)
    if not silo.Folder(folder).certificate.exists():  # the coordinator may have approved by now
        say("asking the hub for this silo's certificate")
        attempt(lambda: enrol.collect(folder))
    yield files.certificate(folder, own)
    say("reading the text")
    counted = attempt(lambda: text.count(own, lambda n: say(f"reading the text: row {n:,}")))
    if isinstance(counted, ConfigError):
        yield failed("text", counted, "correct data in silo.toml")
    else:
        attempt(lambda: volume.keep(folder, counted.languages))  # only a note for the hub
        yield text.text(own, counted, _promised(folder))
    say(f"reading the base {own.base}")
    yield pinned.base(own)
    there = None if isinstance(counted, ConfigError) else counted
    yield from _beyond(Silo(folder, own, study, seen, there, children.running(folder)), say)


def _beyond(of: Silo, say: Say) -> Iterator[Check]:
    """Yield the checks that need the text's languages, and those of the way to the hub."""
    spoken = list(of.counted.languages) if of.counted else list(_promised(of.folder))
    sized = attempt(lambda: room.sized(of.study, of.own, scope.scripts(spoken)))
    yield room.memory(sized, room.room(of.machine, of.own, bool(of.running)))
    yield room.disk(sized, of.machine)
    workers = of.running and attempt(lambda: sockets.alive(frames.socket(of.folder)))
    yield hub.programs(of.running, workers is True)
    say(f"asking the hub at {of.own.address}")
    answer = attempt(lambda: contact.clock(of.folder))
    yield hub.reached(answer, of.own.address)
    if isinstance(answer, ConfigError):
        return
    yield hub.clock(answer)
    say("measuring the line to the hub")
    rate = attempt(lambda: measured(of.folder))
    yield hub.uplink(rate, 0 if isinstance(sized, ConfigError) else algebra.size(sized.tensors))
    if not isinstance(rate, ConfigError):
        if of.own.round_bytes or of.own.update_hours:
            yield hub.budget(of.own, rate)
        kept = attempt(lambda: _keep(of, rate))
        if isinstance(kept, ConfigError):  # someone edits it meanwhile
            yield failed("silo.toml", kept, "correct that line of silo.toml")


def measured(folder: Path) -> float:
    """Return the bytes a second to the hub, from a probe that takes about three seconds."""
    first = contact.probe(folder, FIRST)
    return contact.probe(folder, int(min(max(first * MEASURED_S, FIRST), MOST)))


def _keep(of: Silo, rate: float) -> None:
    """Write the line's speed into ``silo.toml``; a silo that does not run tells the hub now, for its plans.

    Raises ``ConfigError`` where that file cannot be read now.
    """
    own = silo.read(of.folder)
    silo.write_settings(of.folder, own.model_copy(update={"uplink_bytes_s": int(rate)}))
    if not of.running:
        attempt(lambda: contact.hello(of.folder, machine.greeting(of.machine, int(rate))))


def _promised(folder: Path) -> tuple[str, ...]:
    """Return the languages that the kit names, none where the kit is gone."""
    kit = attempt(lambda: join.recall(folder))
    return () if isinstance(kit, ConfigError) else kit.languages


def attempt(work: Callable[[], Value]) -> Value | ConfigError:
    """Return what a function returns, or the error in plain words that it raises."""
    try:
        return work()
    except ConfigError as error:
        return error
    except ImportError as error:
        return ConfigError(f"this needs {error.name}; pip install 'bhasha-fl[silo]'")
    except OSError as error:
        return ConfigError(sentence(error))
