"""Many silos on one machine: the real apps over a grid in one process."""
