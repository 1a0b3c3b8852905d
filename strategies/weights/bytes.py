"""Silos count by UTF-8 bytes of text, p ~ n^(1/temperature).

Bytes, not tokens: a badly tokenised language has more tokens for the same text.
"""

from __future__ import annotations

from strategies.weights.weight import Weight, power


def bytes(temperature: float = 1.0) -> Weight:
    """Weigh a silo by the UTF-8 bytes of its training text."""
    return power("bytes", temperature)
