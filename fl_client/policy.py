"""``policy.toml``: what this silo allows. Its own people write it; nothing that a hub sends can change it.

What the file does not allow is refused, with one of the codes of ``refusals``.
"""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from fl_client import bundle, limits, settings, spec
from fl_client.config import ConfigError, Section, Study
from fl_client.limits import Limits, Most
from fl_client.memory import write_whole
from fl_client.signed import Signed
from fl_client.silo import Folder

INSTALLED = "installed"
TEXT = """\
# What this silo allows. Only its own people change this file; what it does not allow is refused, and the hub is told
# the reason by a code. A change holds from the next message on.

[hub]
# The federation whose hub may ask for work.
federation = {federation}

[code]
# The app bundles that may run, by SHA-256. "installed" is the one of the version installed here. A bundle holds
# configuration only: what runs is always the installed package, never anything that a hub sent.
bundles = ["installed"]

[base]
# The base models that may be trained on, by SHA-256 of their files.
sha256 = [{base}]

[study]
# The tasks that may be trained.
tasks = {tasks}
# The most that a study may ask for: the rank of an adapter with its private part, rounds, and in each round steps of
# so many texts of so many tokens. By itself a silo trains as long again for each number that [alone] of the study
# names, and no list there may have more than 16. What it scores is limited too, by the version installed here.
max_rank = 64
max_rounds = 1000
max_steps = 10000
max_batch_size = 1024
max_length = 32768

[egress]
# The kinds of message that are answered: who are you, the seeded start, sketches of the first gradients for strategies
# that choose their subspace from data, training alone, training and the second pass that some strategies have, scores.
kinds = ["query", "query.initial", "query.gradient", "train.alone", "train", "train.second", "evaluate"]
# The numbers that may leave, by name; * stands for a language, the number of a process, or the name of a score. Beside
# them only tensors and the facts below leave in an answer.
metrics = [
    "loss", "codec_reset", "left_behind", "valid", "lr", "step", "valid/*", "base/*", "alone/*", "together/*",
    "adapted/*", "blend/*", "blend_share",
    "efficiency/*", "tokens_s/*", "compute_s/*", "communication_s/*", "gpu_memory_bytes/*",
    "gpu_utilisation/*",
]
# The facts that may leave, by name: the silo's name, the round, counts by language, the hash of the base, the silo's
# LoRA rank where it is below the study's, the names of the adapter's modules, which candidate the silo serves, its
# learning rate alone. Each leaves only with a value of that kind, never with other text.
# As it starts, a silo greets its hub: the versions of this software and of Flower, how many processors, GPUs and
# processes and how much memory there are, the speed of the line, and the budget and hours of silo.toml. Where
# "languages" stands here, it also says how many rows and bytes of text it has of each language.
facts = ["silo", "round", "languages", "base", "rank", "peft", "served", "alone_lr"]
# The most bytes that may leave in one round of a study, and in one day (UTC).
max_bytes_per_round = 1073741824
max_bytes_per_day = 17179869184
"""


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Bundles = Annotated[
    tuple[Annotated[str, Field(pattern=r"^(installed|[0-9a-f]{64})$")], ...],
    BeforeValidator(_listed),
]


class Hub(Section):
    """Who may ask."""

    federation: str


class Code(Section):
    """What may run."""

    bundles: Bundles


class Base(Section):
    """What may be trained on."""

    sha256: tuple[Sha256, ...]


class Egress(Section):
    """What may leave."""

    kinds: tuple[str, ...]
    metrics: tuple[str, ...]
    facts: tuple[str, ...]
    max_bytes_per_round: Most
    max_bytes_per_day: Most


class Policy(Section):
    """A silo's policy. Every key must be there: what is not said is not allowed."""

    hub: Hub
    code: Code
    base: Base
    study: Limits
    egress: Egress


def create(folder: Path, base_sha256: str, federation: str) -> None:
    """Write ``policy.toml`` with a comment for each line; raises ``ConfigError`` where there is one."""
    path = Folder(folder).policy
    if path.exists():
        raise ConfigError(f"{path} is there already; it is not overwritten")
    tasks = json.dumps(sorted(spec.factories("task")))
    said = json.dumps(federation, ensure_ascii=False)
    text = TEXT.format(federation=said, base=json.dumps(base_sha256), tasks=tasks)
    write_whole(path, text.encode())


def read(folder: Path) -> Policy:
    """Return a silo's policy; raises ``ConfigError``."""
    remedy = "nothing is allowed without it; copy one from a backup or join again"
    return settings.read(Folder(folder).policy, Policy, remedy)


def bundles(policy: Policy) -> set[str]:
    """Return the SHA-256 of every app bundle that may run."""
    return {bundle.sha256() if one == INSTALLED else one for one in policy.code.bundles}


def admit(policy: Policy, signed: Signed) -> str:
    """Return '' where a study may be worked on, else the code of ``refusals.REFUSALS`` that says why not."""
    if signed.federation != policy.hub.federation:
        return "federation_differs"
    if signed.bundle not in bundles(policy):
        return "bundle_differs"
    if _task(signed.study) not in policy.study.tasks:
        return "task_not_allowed"
    return limits.exceeded(signed.study, policy.study)


def _task(study: Study) -> str | None:
    try:
        calls = spec.parse(study.task, "task")
    except ConfigError:
        return None
    return calls[0].name if len(calls) == 1 else None


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Return whether a name fits one of a policy's patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
