"""``fl-client join``: a silo asks the hub for a certificate, and fetches it once the coordinator has approved.

The hub must prove itself by the root in the kit. What goes out is a public key, signed, and the kit's token.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fl_client import audit, certificates, join, kit, notice, plain, processes, silo
from fl_client.address import split
from fl_client.config import ConfigError
from fl_client.kit import REFUSALS, Kit
from fl_client.memory import write_whole
from fl_client.silo import Folder

TIMEOUT_S = 20.0
ANSWER_CAP = 1 << 16
ASK_S, TICK_S = 5.0, 0.1  # between two questions whether the coordinator has approved; of the wait
NEXT = {
    True: "The hub has approved this silo. Check with `fl-client doctor{0}`, then `fl-client start{0}`.",
    False: "Read this to the coordinator, by telephone or in person:\n\n    {1}\n\n"
    "Then `fl-client start{0}`: it waits until the coordinator has approved.",
}

app = typer.Typer()


class Unreachable(ConfigError):
    """The hub cannot be reached now; the same again later may work."""


@app.command("join")
def command(
    kit_file: Annotated[
        Path, typer.Argument(metavar="KIT", help="The zip that the coordinator sent.")
    ],
    data: Annotated[str, typer.Option(help="Your folder of text; it is read in place.")],
    base: Annotated[
        str, typer.Option(help="The base model: a folder, a GGUF file, a hub name, builtin:tiny.")
    ],
    folder: Annotated[Path, typer.Option("--dir", help="The silo's folder, made here.")] = Path(
        "silo"
    ),
    lang: Annotated[
        str, typer.Option(help="The language of text that names none, such as 'as'.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Join a federation: make this silo's folder and key, and ask the hub for a certificate.

    Broken off, the same command goes on with the same key. Nothing that is there is overwritten.
    """
    with plain.errors():
        given = kit.read(kit_file)
        with _as_it_was(folder):
            join.prepare(folder, given, data, base, lang)
            fingerprint = ask(folder)
            approved = collect(folder)
    if as_json:
        said = {"silo": given.name, "federation": given.federation, "folder": str(folder)}
        said |= {"fingerprint": fingerprint, "short": certificates.short(fingerprint)}
        print(json.dumps(said | {"approved": approved}))  # noqa: T201
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{folder} is silo {given.name} of {given.federation}.", markup=False)
    option = "" if folder == Path("silo") else f" --dir {folder}"
    console.print(NEXT[approved].format(option, certificates.short(fingerprint)), markup=False)


@contextmanager
def _as_it_was(folder: Path) -> Iterator[None]:
    """Let an approved silo, where it cannot join again now, start with the certificate that it has."""
    at = Folder(folder)
    served = join.recall(folder) if at.kit.exists() and at.certificate.exists() else None
    try:
        yield
    except BaseException:
        if served is not None and not served.token:
            join.keep(folder, served)
        raise


def ask(folder: Path) -> str:
    """Send the silo's request to the hub and return its key's fingerprint; raises ``ConfigError``, ``Unreachable``."""
    known = join.recall(folder)
    body = certificates.request(certificates.load_key(Folder(folder).key), known.name)
    status, answer = _call(folder, known, "POST", "/v1/silo/enrol", body)
    if status not in (200, 202):
        raise _refusal(known, status, answer)
    return certificates.fingerprint(body)


def collect(folder: Path) -> bool:
    """Ask the hub once for the certificate; return whether it lies in the folder now.

    Raises ``ConfigError`` where the hub refuses, ``Unreachable`` where it is worth asking again.
    """
    at = Folder(folder)
    known = join.recall(folder)
    if not known.token:
        if not at.certificate.exists():
            raise ConfigError(f"there is no {at.certificate}; run `fl-client join` with a new kit")
        return True
    status, answer = _call(folder, known, "GET", "/v1/silo/certificate")
    if status == 202:
        return False
    if status != 200:
        raise _refusal(known, status, answer)
    own = certificates.request(certificates.load_key(at.key), known.name)
    if certificates.fingerprint(answer) != certificates.fingerprint(own):
        raise ConfigError("the hub sent a certificate for another key; tell the coordinator")
    write_whole(at.certificate, answer)
    join.keep(folder, known.model_copy(update={"token": ""}))
    return True


def approved(folder: Path) -> bool:
    """Return whether the silo's certificate is there, once it is or someone asks this process to stop.

    Raises ``ConfigError`` where the hub refuses.
    """
    said = False
    with processes.asked_to_stop() as stop:
        while not stop:
            try:
                if collect(folder):
                    return True
                why = "the coordinator has not approved this silo yet; waiting"
            except Unreachable as error:
                why = f"{error}; trying again"
            if not said:
                notice.say(why)
                said = True
            until = time.monotonic() + ASK_S
            while not stop and time.monotonic() < until:
                time.sleep(TICK_S)
    return False


def _call(
    folder: Path, known: Kit, method: str, path: str, body: bytes | None = None
) -> tuple[int, bytes]:
    address = silo.read(folder).address  # which people correct where a hub has moved
    host, port = split(address)
    context = certificates.client_context(Folder(folder).root, None, None)
    line = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
    audit.append(folder, audit.entry(path, body or b""))
    try:
        line.request(method, path, body, {"bhasha-token": known.token})
        answer = line.getresponse()
        return answer.status, answer.read(ANSWER_CAP)
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(
            f"{address} does not prove that it is the hub of this kit ({error.verify_message});"
            " check this machine's clock, then ask the coordinator"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            said = f"what answers at {address} speaks no TLS 1.3; check address in silo.toml"
            raise ConfigError(said) from None
        why = getattr(error, "strerror", None) or type(error).__name__
        raise Unreachable(
            f"the hub at {address} cannot be reached ({why}); all is kept in {folder},"
            " run the same command again later"
        ) from None
    finally:
        line.close()


def _refusal(known: Kit, status: int, answer: bytes) -> ConfigError:
    try:
        code = json.loads(answer)["code"]
    except (ValueError, TypeError, KeyError):
        code = ""
    if isinstance(code, str) and code in REFUSALS:
        return ConfigError(REFUSALS[code])
    return Unreachable(f"the hub at {known.address} answered {status}; try again later")
