"""``fl-server renew``: new dates for the hub's certificates, with the keys that are there.

A server's certificate holds for two years, the CA that signed it and the silos' for five. The CA's needs the root's
key, which lies offline. Silos trust the root: nothing changes for them.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from rich.console import Console

from fl_client import plain
from fl_client.address import split
from fl_client.certificates import load_key
from fl_client.config import ConfigError
from fl_client.memory import write_whole
from fl_server import authority
from fl_server import hub as hubs
from fl_server.authority import Issuer
from fl_server.provision import HubFolder, Json

app = typer.Typer()


@app.command()
def renew(
    root: Annotated[
        Path | None,
        typer.Option(help="The root's key, from where it is kept: renews the hub's CA as well."),
    ] = None,
    hub: HubFolder = Path("hub"),
    as_json: Json = False,
) -> None:
    """Renew the certificate of the hub's server, for two years; silos notice nothing. Then start the hub anew."""
    with plain.errors():
        settings = hubs.read(hub)
        if root is not None:
            ca(hub, root)
        until = server(hub, split(settings.address)[0])
    said = until.isoformat(timespec="seconds")
    if as_json:
        print(json.dumps({"hub": str(hub), "until": said}))  # noqa: T201
        return
    words = (
        f"{hub / 'server.pem'} holds until {said[:10]}. Stop and start the hub, so that it uses it."
    )
    Console(highlight=False, soft_wrap=True).print(words, markup=False)


def server(hub: Path, host: str) -> datetime:
    """Renew the server's certificate, for ``host``, and return until when silos accept it; raises ``ConfigError``."""
    pem, held = _read(hub / "ca.pem")
    if held.not_valid_after_utc <= datetime.now(UTC):
        raise ConfigError(
            f"{hub / 'ca.pem'} held until {held.not_valid_after_utc:%Y-%m-%d};"
            " renew it as well, with --root and the root's key"
        )
    signs = Issuer(held.subject, load_key(hub / "ca.key"))
    _, before = _read(hub / "server.pem")
    public = load_key(hub / "server.key").public_key()
    dates = authority.days(authority.SERVER_DAYS)
    leaf = authority.build(before.subject, public, signs, dates, authority.server_only(host))
    write_whole(hub / "server.pem", leaf.public_bytes(Encoding.PEM) + pem)
    return min(leaf.not_valid_after_utc, held.not_valid_after_utc)


def ca(hub: Path, root_key: Path) -> None:
    """Renew the certificate of the hub's CA, with the key of its root; raises ``ConfigError``."""
    _, root = _read(hub / "root.pem")
    signs = Issuer(root.subject, load_key(root_key))
    if signs.key.public_key() != root.public_key():
        raise ConfigError(f"{root_key} is not the key of {hub / 'root.pem'}")
    _, before = _read(hub / "ca.pem")
    public = load_key(hub / "ca.key").public_key()
    dates = authority.days(authority.CA_DAYS)
    made = authority.build(before.subject, public, signs, dates, authority.authority(0))
    write_whole(hub / "ca.pem", made.public_bytes(Encoding.PEM))


def _read(path: Path) -> tuple[bytes, x509.Certificate]:
    try:
        pem = path.read_bytes()
        return pem, x509.load_pem_x509_certificate(pem)
    except (OSError, ValueError):
        raise ConfigError(f"{path} cannot be read; put back a copy of it") from None
