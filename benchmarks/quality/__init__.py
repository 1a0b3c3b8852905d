"""Who gains by joining, and how much: ``python -m benchmarks.quality SPLIT``."""
