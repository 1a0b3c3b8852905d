"""How one corpus is dealt out to simulated silos."""
