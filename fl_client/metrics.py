"""The numbers of a reply by their names: ``NAME/RANK`` of a worker group, ``WHAT/LANG/NAME`` of held-out text."""

from __future__ import annotations

EFFORT = (
    "efficiency",
    "tokens_s",
    "compute_s",
    "communication_s",
    "gpu_memory_bytes",
    "gpu_utilisation",
)
CANDIDATES = ("base", "alone", "together", "adapted", "blend")  # what a silo may serve
SCORES = (
    "bits",
    "bytes",
    "accuracy",
    "macro_f1",
    "chrf++",
)  # of held-out text; a new task's come here
WORDS = frozenset(  # of which names of numbers are made, beside languages and ranks
    ("loss", "codec_reset", "left_behind", "valid", "lr", "step", "blend_share")
    + (*CANDIDATES, *SCORES, *EFFORT)
)
RANKS = frozenset(map(str, range(1024)))  # of a worker group, at most


def by_rank(metrics: dict[str, float]) -> dict[str, dict[str, float]]:
    """Return what a worker group measured of itself, by name and rank: ``{"efficiency": {"0": 0.93}}``."""
    table: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        name, _, rank = key.partition("/")
        if name in EFFORT and rank in RANKS:
            table.setdefault(name, {})[rank] = value
    return table


def by_language(metrics: dict[str, float], what: str) -> dict[str, dict[str, float]]:
    """Return the numbers named ``WHAT/LANG/NAME`` as a table by language."""
    table: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        kind, _, rest = key.partition("/")
        if kind == what:
            lang, _, name = rest.rpartition("/")
            table.setdefault(lang, {})[name] = value
    return table
