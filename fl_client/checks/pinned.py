"""The base model: whether it is there, and whether it is still the one that was pinned when the silo joined."""

from __future__ import annotations

from fl_client.checks.check import Check, failed
from fl_client.config import ConfigError
from fl_client.silo import Settings

BACK = "put back the base that was there when this silo joined, or correct base in silo.toml"


def base(own: Settings) -> Check:
    """Return whether the base's files have the hash that ``silo.toml`` pins; reads all of them."""
    try:
        from fl_client import bases

        found = bases.sha256(own.base)
    except ImportError as error:
        what = f"it cannot be looked at without {error.name}"
        return Check("base", False, what, "pip install 'bhasha-fl[silo]'")
    except ConfigError as error:
        return failed("base", error, BACK)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        return Check("base", False, f"{own.base} cannot be read: {reason}", BACK)
    if found != own.base_sha256:
        what = f"{own.base} has changed: its hash is {found[:12]}... and {own.base_sha256[:12]}... is pinned"
        return Check("base", False, what, BACK)
    return Check("base", True, f"{own.base}, as pinned ({found[:12]}...)")
