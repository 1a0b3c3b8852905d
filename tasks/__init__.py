"""What a hub and its silos agree on about the work. NumPy only; one task, one file."""
