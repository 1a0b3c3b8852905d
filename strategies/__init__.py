"""What a hub and its silos agree on about an update. NumPy only; one method, one file."""
