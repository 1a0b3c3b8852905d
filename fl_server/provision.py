"""The coordinator's commands for who may take part: init, invite, approve, eject, roster."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography import x509
from rich.console import Console
from rich.table import Table

from fl_client import kit as kits
from fl_client import plain
from fl_client.certificates import short
from fl_client.config import ConfigError
from fl_server import authority, roster
from fl_server import hub as hubs
from fl_server.roster import Entry

app = typer.Typer()

Name = Annotated[str, typer.Argument(help="The silo's name on the roster.")]
HubFolder = Annotated[
    Path, typer.Option("--hub", envvar="BHASHA_HUB", help="The hub's folder, made by init.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")]


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder for the hub.")],
    name: Annotated[str, typer.Option(help="The federation's name.")],
    address: Annotated[str, typer.Option(help="Where silos reach this hub, as host:port.")],
    as_json: Json = False,
) -> None:
    """Make a hub: its keys and certificates, hub.toml and an empty roster. Nothing is overwritten."""
    with plain.errors():
        made = hubs.new(name, address)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder} is there already and is not empty; choose another folder")
        authority.create(folder, made)
        hubs.create(folder, made)
    if as_json:
        print(json.dumps({"hub": str(folder), **made.model_dump()}))  # noqa: T201
        return
    _say(
        f"{folder} is the hub of {made.name}, reached at {made.address}; it listens on {made.listen}."
    )
    _say(f"Move {folder / 'root.key'} to a place that is offline: the hub runs without it.")
    option = "" if folder == Path("hub") else f" --hub {folder}"
    _say(f"Next: fl-server invite NAME --languages as,brx{option}")


@app.command()
def invite(
    name: Annotated[str, typer.Argument(help="A short name for the silo: a-z, 0-9 and -.")],
    languages: Annotated[str, typer.Option(help="Its language codes, commas between: as,brx.")],
    expires: Annotated[
        int, typer.Option(min=1, max=8760, help="Hours in which the kit can be used.")
    ] = 168,
    out: Annotated[
        Path | None, typer.Option(help="Where the kit is written; by default NAME-kit.zip.")
    ] = None,
    hub: HubFolder = Path("hub"),
    as_json: Json = False,
) -> None:
    """Invite a silo: put its name on the roster and write its startup kit."""
    path = out or Path(f"{name}-kit.zip")
    codes = tuple(code.strip() for code in languages.split(",") if code.strip())
    with plain.errors():
        if path.exists():
            raise ConfigError(f"{path} is there already; choose another --out")
        kit = roster.invite(hub, name, codes, expires)
        try:
            kits.write(path, kit)
        except OSError:
            roster.eject(hub, name)  # nobody has this kit, so the name is free again
            raise
    if as_json:
        said = {"kit": str(path), "name": name, "languages": kit.languages, "expires": kit.expires}
        print(json.dumps(said))  # noqa: T201
        return
    _say(f"{path} lets {name} ask once, until {kit.expires}. Send it to nobody else.")
    _say(f"When {name} has joined it reads a fingerprint to you; then: fl-server approve {name}")


@app.command()
def approve(
    name: Name,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask; you have compared the fingerprint.")
    ] = False,
    hub: HubFolder = Path("hub"),
    as_json: Json = False,
) -> None:
    """Let a silo take part, once its fingerprint is the one that the silo reads to you."""
    with plain.errors():
        hubs.read(hub)
        entry = roster.one(hub, name)
        if entry.state == "requested" and not yes:
            _compare(entry)
        entry = roster.approve(hub, name, entry.fingerprint)
    _outcome(entry, as_json, f"{name} is approved, key {short(entry.fingerprint)}.")


@app.command()
def eject(name: Name, hub: HubFolder = Path("hub"), as_json: Json = False) -> None:
    """Shut a silo out, from its next request on. What it gave before stays in the studies."""
    with plain.errors():
        hubs.read(hub)
        entry = roster.eject(hub, name)
    _outcome(entry, as_json, f"{name} is ejected; invite it again to let it back in.")


@app.command("roster")
def list_(hub: HubFolder = Path("hub"), as_json: Json = False) -> None:
    """Show who is invited, has asked, is approved or ejected."""
    with plain.errors():
        settings = hubs.read(hub)
        listed = list(roster.read(hub).values())
    if as_json:
        print(json.dumps([_shown(entry) for entry in listed]))  # noqa: T201
        return
    table = Table("silo", "state", "since", "languages", "key", "until (UTC)", title=settings.name)
    for entry in listed:
        key = short(entry.fingerprint).strip() or "-"
        spoken = ", ".join(entry.languages)
        since, until = (at[:16].replace("T", " ") for at in (entry.changed, _until(entry)))
        table.add_row(entry.name, entry.state, since, spoken, key, until)
    Console(markup=False, emoji=False).print(table)


def _compare(entry: Entry) -> None:
    if not _at_a_terminal():
        raise ConfigError(
            f"the key of {entry.name} is {short(entry.fingerprint)}; compare it with what the silo"
            " reads to you, then approve with --yes"
        )
    _say(f"The key of {entry.name} is\n\n    {short(entry.fingerprint)}\n")
    if not typer.confirm("Does the silo read the same to you?"):
        raise ConfigError(
            f"{entry.name} is not approved; `fl-server eject {entry.name}` and invite it again"
            " if another has used its kit"
        )


def _at_a_terminal() -> bool:
    return sys.stdin.isatty()


def _shown(entry: Entry) -> dict[str, Any]:
    secret = {"token_sha256", "request", "certificate", "expires"}
    return entry.model_dump(exclude=secret) | {"until": _until(entry)}


def _until(entry: Entry) -> str:
    """Return until when the certificate holds, or else the kit."""
    if not entry.certificate:
        return entry.expires
    held = x509.load_pem_x509_certificate(entry.certificate.encode())
    return held.not_valid_after_utc.isoformat(timespec="seconds")


def _outcome(entry: Entry, as_json: bool, said: str) -> None:
    if as_json:
        print(json.dumps(_shown(entry)))  # noqa: T201
    else:
        _say(said)


def _say(text: str) -> None:
    Console(highlight=False, soft_wrap=True).print(text, markup=False)
