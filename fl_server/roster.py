"""Who may take part. Read anew for every request, so that a silo is out from the moment it is ejected.

invited -> requested (the silo made a key and asked) -> approved (it has a certificate) -> ejected. An ejected
name can be invited again. Of a kit's token only the hash is kept, and one key only may use it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fl_client.certificates import fingerprint
from fl_client.config import ConfigError
from fl_client.kit import Kit, expired
from fl_client.settings import checked
from fl_server import authority, entries
from fl_server import hub as hubs
from fl_server.entries import Entry as Entry

STANDS = {
    "invited": "has not asked yet; the silo runs `fl-client join` with its kit first",
    "approved": "is approved already",
    "ejected": "is ejected; invite it again with a new kit",
}


class Rejected(Exception):
    """A silo is turned away: ``code`` is all that it is told, one of ``kit.REFUSALS``."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def read(hub: Path) -> dict[str, Entry]:
    """Return the roster by name, names sorted; raises ``ConfigError`` where a file of it is damaged."""
    return {name: one(hub, name) for name in entries.names(hub)}


def one(hub: Path, name: str) -> Entry:
    """Return the entry of a silo; raises ``ConfigError`` where it is not on the roster."""
    entry = entries.find(hub, name)
    if entry is None:
        known = ", ".join(entries.names(hub)) or "nobody yet"
        raise ConfigError(f"{name!r} is not on the roster; on it: {known}")
    return entry


def change(hub: Path, name: str, f: Callable[[Entry | None], Entry]) -> Entry:
    """Replace the entry of a silo by what ``f`` makes of it, under the roster's lock, and return that."""
    with entries.locked(hub):
        return entries.keep(hub, f(entries.find(hub, name)))


def invite(hub: Path, name: str, languages: tuple[str, ...], hours: float) -> Kit:
    """Put a silo on the roster and return its kit; raises ``ConfigError``, such as for a name that is taken.

    A language that is named twice counts once. One that no table knows may be a silo's own.
    """
    settings, languages = hubs.read(hub), tuple(dict.fromkeys(languages))
    kit = checked(
        Kit,
        federation=settings.name,
        address=settings.address,
        root_pem=(hub / "root.pem").read_text(),
        study_pub=authority.study_public(hub),
        name=name,
        languages=languages,
        token=secrets.token_urlsafe(32),
        expires=(datetime.now(UTC) + timedelta(hours=hours)).isoformat(timespec="seconds"),
    )

    def invited(before: Entry | None) -> Entry:
        if before is not None and before.state != "ejected":
            raise ConfigError(
                f"{name!r} is {before.state} already; choose another name, or eject it first"
            )
        return Entry(
            name=name,
            languages=languages,
            state="invited",
            token_sha256=_hash(kit.token),
            expires=kit.expires,
        )

    change(hub, name, invited)
    return kit


def enrol(hub: Path, token: str, csr_pem: bytes) -> Entry:
    """Take a silo's request and return its entry; raises ``Rejected``. The same key may ask again, no other may."""
    try:
        authority.requested(csr_pem)
        key = fingerprint(csr_pem)
        request = csr_pem.decode("ascii")
    except ValueError:
        raise Rejected("bad_request") from None
    with entries.locked(hub):
        entry = _of_token(hub, token)
        if entry.state in ("requested", "approved"):
            if key != entry.fingerprint:
                raise Rejected("used_kit")
            return entry
        if expired(entry.expires, datetime.now(UTC)):
            raise Rejected("expired_kit")
        asked = {"state": "requested", "request": request, "fingerprint": key}
        return entries.keep(hub, entry.model_copy(update=asked))


def collect(hub: Path, token: str) -> Entry:
    """Return the entry of a silo that asked; its certificate is there once approved. Raises ``Rejected``."""
    entry = _of_token(hub, token)
    if entry.state == "invited":
        raise Rejected("not_asked")
    return entry


def approve(hub: Path, name: str, shown: str = "") -> Entry:
    """Issue the certificate of a silo that asked and return its entry; raises ``ConfigError``.

    ``shown`` is the fingerprint that the coordinator compared: a request with another one is not approved.
    """
    with entries.locked(hub):
        entry = one(hub, name)
        if entry.state != "requested":
            raise ConfigError(f"{name!r} {STANDS[entry.state]}")
        if shown and shown != entry.fingerprint:
            raise ConfigError(f"the request of {name!r} has changed meanwhile; look at it again")
        pem = authority.issue(hub, entry.request.encode(), name)
        serial = f"{x509.load_pem_x509_certificate(pem).serial_number:x}"
        issued = {"state": "approved", "certificate": pem.decode(), "serial": serial}
        return entries.keep(hub, entry.model_copy(update=issued))


def eject(hub: Path, name: str) -> Entry:
    """Shut a silo out from its next request on; raises ``ConfigError`` where it is not on the roster."""
    with entries.locked(hub):
        return entries.keep(hub, one(hub, name).model_copy(update={"state": "ejected"}))


def admits(hub: Path, name: str, certificate_der: bytes) -> bool:
    """Return whether a silo may speak now: approved, with this very certificate, and that within its dates."""
    try:
        entry = entries.find(hub, name)
    except ConfigError:
        return False
    if entry is None or entry.state != "approved":
        return False
    held = x509.load_pem_x509_certificate(entry.certificate.encode())
    now = datetime.now(UTC)
    in_dates = held.not_valid_before_utc <= now < held.not_valid_after_utc
    return in_dates and held.public_bytes(Encoding.DER) == certificate_der


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()


def _of_token(hub: Path, token: str) -> Entry:
    wanted = _hash(token)
    for name in entries.names(hub):
        try:
            entry = one(hub, name)
        except ConfigError:
            continue  # a damaged file of one silo does not shut out another
        if hmac.compare_digest(entry.token_sha256, wanted):
            if entry.state == "ejected":
                raise Rejected("ejected")
            return entry
    raise Rejected("unknown_kit")
