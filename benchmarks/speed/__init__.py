"""How fast and how small, against peers that are really run beside: see ``benchmarks/README.md``."""
