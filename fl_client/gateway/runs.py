"""Which runs may be worked on: their signed study is fetched once, checked, and held against the policy of the hour."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any, NamedTuple

from fl_client import bundle, fleet, policy, refusals, signed, silo
from fl_client.config import ConfigError, Scalar
from fl_client.gateway import link
from fl_client.gateway.link import Call, Link, Patience
from fl_client.policy import Policy
from fl_client.signed import Signed
from fl_client.silo import Folder, Settings

LOG = logging.getLogger("bhasha_fl.gateway")
QUICK = Patience(3.0, 4.0)
WORK = {
    "",
    "flwr-serverapp",
}  # the kinds of run that are ours; Flower knows others, with programs of their own
KEPT = 64


class Away(Exception):
    """The hub cannot be asked now, or this silo's own policy cannot be read."""


class Refused(Exception):
    """A run, or a message of it, that this silo does not take part in; ``code`` is one of ``refusals.REFUSALS``."""

    def __init__(self, run: int, code: str) -> None:
        super().__init__(f"run {run}: {refusals.REFUSALS[code]}")
        self.run, self.code = run, code


class Book(NamedTuple):
    """The silo, and what is known of runs and of the policy file as it was last read."""

    folder: Path
    settings: Settings
    studies: dict[int, Signed]
    policies: dict[tuple[int, int], Policy]


def open_(folder: Path) -> Book:
    """Return the book of a silo's folder; raises ``ConfigError`` where settings, policy or the hub's key are unfit."""
    book = Book(folder, silo.read(folder), {}, {})
    policy.read(folder)
    key = Folder(folder).study_key
    if not key.exists():
        raise ConfigError(f"there is no {key}; it is in the kit: join again in a new folder")
    return book


def rules(book: Book) -> Policy:
    """Return the policy as the file has it now; raises ``Away`` where it cannot be read."""
    path = Folder(book.folder).policy
    try:
        seen = path.stat()
        version = seen.st_mtime_ns, seen.st_size
        if version not in book.policies:
            book.policies.clear()
            book.policies[version] = policy.read(book.folder)
        return book.policies[version]
    except (OSError, ConfigError) as error:
        LOG.error("nothing is answered until the policy can be read: %s", error)
        raise Away from None


async def study(book: Book, line: Link, run: int) -> Signed:
    """Return the study of a run that may be worked on; raises ``Refused``, or ``Away``."""
    if run not in book.studies:
        found = await _fetch(book, line, run)
        while len(book.studies) >= KEPT:
            del book.studies[next(iter(book.studies))]
        book.studies[run] = found
    code = _refusal(book, book.studies[run])
    if code:
        raise Refused(run, code)
    return book.studies[run]


async def _fetch(book: Book, line: Link, run: int) -> Signed:
    call = Call(f"/v1/silo/study?run={run}", method="GET", back=signed.LARGEST)
    found = await link.send(line, call, QUICK)
    if found.status == 404:
        raise Refused(run, "study_missing")
    if found.status != 200:
        raise Away
    try:
        return signed.open_(found.body, Folder(book.folder).study_key.read_bytes())
    except ConfigError as error:
        LOG.error("run %d: %s", run, error)
        raise Refused(run, "signature_wrong") from None
    except OSError:
        raise Away from None


def _refusal(book: Book, found: Signed) -> str:
    allowed = rules(book)
    if book.settings.name not in found.silos:
        return "not_invited"
    if book.settings.base_sha256 not in allowed.base.sha256:
        return "base_not_allowed"
    return policy.admit(allowed, found)


def check_run(answer: Any, asked: int, found: Signed) -> str:
    """Return '' where what the hub says of a run is what was signed for it, else the code of the refusal."""
    said, about = fleet.run(answer), answer.run
    app = (about.fab_id, about.fab_version) == (bundle.APP, bundle.version())
    if said.bundle != found.bundle or not app:
        return "bundle_differs"
    ours = said.run == asked and about.primary_task_type in WORK
    if not ours or not _same(said.config, signed.carried(found.study)):
        return "configuration_differs"
    return ""


def _same(one: dict[str, Scalar], other: dict[str, Scalar]) -> bool:
    kinds = {key: (type(value), value) for key, value in one.items()}
    return kinds == {key: (type(value), value) for key, value in other.items()}


def check_bundle(answer: Any, found: Signed) -> str:
    """Return '' where the bundle that the hub sends is, byte for byte, the one that was signed, else a code."""
    said = fleet.bundle(answer)
    same = said.sha256 == found.bundle == hashlib.sha256(said.content).hexdigest()
    return "" if same else "bundle_differs"
