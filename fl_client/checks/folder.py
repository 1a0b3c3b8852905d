"""The silo's own files: its settings, its policy, its key, its certificate."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509 import SubjectAlternativeName, UniformResourceIdentifier

from fl_client import certificates, policy, silo
from fl_client.checks.check import Check, failed
from fl_client.config import ConfigError
from fl_client.silo import Folder, Settings

SOON_DAYS = 14
NEW_KIT = "ask the coordinator for a new kit and join with it into a new folder"
RENEW = "ask the coordinator for a new kit and join with it into this folder again: nothing in it is lost"


def settings(folder: Path) -> Check:
    """Return whether ``silo.toml`` can be read."""
    try:
        own = silo.read(folder)
    except ConfigError as error:
        return failed("silo.toml", error, "correct that line of silo.toml")
    return Check("silo.toml", True, f"silo {own.name} of {own.federation}, hub at {own.address}")


def allowed(folder: Path, own: Settings, rank: int) -> Check:
    """Return whether ``policy.toml`` can be read and allows this federation, this base and this rank."""
    try:
        held = policy.read(folder)
    except ConfigError as error:
        return failed("policy.toml", error, "correct that line of policy.toml")
    if held.hub.federation != own.federation:
        found = f"it allows the hub of {held.hub.federation!r}, and this silo belongs to {own.federation!r}"
        return Check("policy.toml", False, found, "correct federation under [hub] in policy.toml")
    if own.base_sha256 not in held.base.sha256:
        found = "it does not allow the base that silo.toml pins"
        remedy = f"if that base is meant, put {own.base_sha256} into sha256 under [base]"
        return Check("policy.toml", False, found, remedy)
    if rank > held.study.max_rank:
        found = f"rank {rank} is over its max_rank, {held.study.max_rank}"
        return Check(
            "policy.toml", False, found, "raise max_rank under [study], or take a lower rank"
        )
    tasks = ", ".join(held.study.tasks) or "no task"
    return Check("policy.toml", True, f"allows {tasks}, rank {held.study.max_rank} at most")


def key(folder: Path) -> Check:
    """Return whether the private key is there and no other user can read it."""
    at = Folder(folder)
    if not at.key.exists():
        found, remedy = f"there is no {at.key}", f"put back a copy of it; without one, {NEW_KIT}"
        return Check("key", False, found, remedy)
    for path in (at.key, folder):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            right = "700" if path.is_dir() else "600"
            found = f"other users of this machine may open {path} (mode {mode:o})"
            return Check("key", False, found, f"chmod {right} {path}")
    try:
        certificates.load_key(at.key)
    except ConfigError as error:
        return failed("key", error, NEW_KIT)
    return Check("key", True, "there, and for this user alone")


def certificate(folder: Path, own: Settings, now: datetime | None = None) -> Check:
    """Return whether the certificate is there, this silo's, this federation's, and within its dates."""
    name, at = "certificate", Folder(folder)
    if not at.certificate.exists():
        found = f"there is no {at.certificate}: the coordinator has not approved this silo yet"
        remedy = "read its fingerprint to the coordinator, then `fl-client start` fetches the certificate"
        return Check(name, False, found, remedy)
    try:
        chain = x509.load_pem_x509_certificates(at.certificate.read_bytes())
        root = x509.load_pem_x509_certificate(at.root.read_bytes())
    except (ValueError, OSError) as error:
        found = f"{at.certificate} or {at.root} cannot be read ({type(error).__name__})"
        return Check(name, False, found, f"put back a copy of them; without one, {NEW_KIT}")
    wrong = _whose(at, own, chain, root)
    if wrong:
        return Check(name, False, wrong, NEW_KIT)
    return _dates(chain, now or datetime.now(UTC))


def _whose(at: Folder, own: Settings, chain: list[x509.Certificate], root: x509.Certificate) -> str:
    """Return what is wrong with whose certificate it is, '' where nothing is."""
    try:
        for held, issuer in zip(chain, [*chain[1:], root], strict=True):
            held.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return f"{at.certificate} is of another federation than {own.federation!r}"
    names = chain[0].extensions.get_extension_for_class(SubjectAlternativeName).value
    if names.get_values_for_type(UniformResourceIdentifier) != [certificates.URN + own.name]:
        return f"{at.certificate} is not that of the silo {own.name!r}"
    try:
        asked = certificates.request(certificates.load_key(at.key), own.name)
    except ConfigError:
        return ""  # the key has a line of its own
    if certificates.fingerprint(asked) != certificates.fingerprint(at.certificate.read_bytes()):
        return f"{at.certificate} belongs to another key than {at.key}"
    return ""


def _dates(chain: list[x509.Certificate], now: datetime) -> Check:
    start = max(held.not_valid_before_utc for held in chain)
    end = min(held.not_valid_after_utc for held in chain)
    until = f"{end:%Y-%m-%d}"
    if now < start:
        found = f"it is not valid yet: it holds from {start:%Y-%m-%d} and this machine says {now:%Y-%m-%d}"
        return Check("certificate", False, found, "set this machine's clock")
    if now >= end:
        found = f"it expired on {until} and this machine says {now:%Y-%m-%d}"
        return Check("certificate", False, found, f"if the clock is right, {RENEW}")
    left = (end - now).days
    if left < SOON_DAYS:
        return Check("certificate", False, f"it ends in {left} days, on {until}", RENEW)
    return Check("certificate", True, f"holds until {until}, {left} days from now")
