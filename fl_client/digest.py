"""What makes two studies the same: all that they choose, and nothing of where they run or who reads them.

Keys at their defaults are left out, so that a study stays the same under a version that knows more keys: silos find
what they keep for it, and hubs go on with it.
"""

from __future__ import annotations

import hashlib
import json

from fl_client.config import Study, flat

DEFAULTS = 1  # counts up where a default changes: studies that run are then others


def of(study: Study) -> str:
    """Return the SHA-256 that identifies a study."""
    usual = flat(type(study)()) | {"home": study.home}
    chosen = {key: value for key, value in flat(study).items() if value != usual[key]}
    return hashlib.sha256(json.dumps([DEFAULTS, chosen], sort_keys=True).encode()).hexdigest()
