"""The text of shared/data by language, without what lies beside it: a wider, thinner collection, and credits."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from fl_client import corpus

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"


def languages() -> Path:
    """Return a folder with a link to each language's text; every run names this same folder."""
    place = ROOT / "runs" / "shared-text"
    place.mkdir(parents=True, exist_ok=True)
    for folder in SHARED.iterdir():
        if corpus.is_language(folder.name):
            with suppress(FileExistsError):
                (place / folder.name).symlink_to(folder)
    return place
