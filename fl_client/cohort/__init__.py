"""Several simulated silos trained at once: their adapters over one frozen base, in one forward and one backward."""
