"""What is installed here, against what the installed version of bhasha-fl asks for."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement

from fl_client.checks.check import Check
from fl_client.machine import installed

NAME = "bhasha-fl"
INSTALL = f"pip install '{NAME}[silo]'"


def flower() -> Check:
    """Return whether Flower is installed in a version that hub and silo both speak."""
    held = installed("flwr")
    wanted = next((r for r in _asked("") if r.name == "flwr" and not r.extras), None)
    if not held:
        return Check("Flower", False, "flwr is not installed", INSTALL)
    if wanted is not None and not wanted.specifier.contains(held, prereleases=True):
        found = f"flwr {held} is installed and bhasha-fl speaks with flwr{wanted.specifier}"
        return Check("Flower", False, found, f"pip install 'flwr{wanted.specifier}'")
    return Check("Flower", True, f"flwr {held}, bhasha-fl {installed(NAME)}")


def torch() -> Check:
    """Return whether Torch and the other packages that a silo trains with are installed."""
    missing = [str(r) for r in _asked("silo") if not installed(r.name)]
    if missing:
        return Check("Torch", False, f"{', '.join(missing)}: not installed", INSTALL)
    old = [
        f"{r.name} {installed(r.name)} (needs {r.specifier})"
        for r in _asked("silo")
        if not r.specifier.contains(installed(r.name), prereleases=True)
    ]
    if old:
        return Check(
            "Torch", False, f"{', '.join(old)}: of another version", f"{INSTALL} --upgrade"
        )
    return Check("Torch", True, f"torch {installed('torch')}, peft {installed('peft')}")


def _asked(extra: str) -> list[Requirement]:
    """Return what the package asks for by itself, or with an extra."""
    try:
        lines = requires(NAME) or []
    except PackageNotFoundError:
        return []
    found = []
    for each in map(Requirement, lines):
        extras = each.marker is not None and "extra" in str(each.marker)
        if extras == bool(extra) and (
            each.marker is None or each.marker.evaluate({"extra": extra})
        ):
            each.marker = None
            found.append(each)
    return found
