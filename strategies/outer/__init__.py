"""The hub's optimizer: how the merged adapter moves along the mean of the updates."""
