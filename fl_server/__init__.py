"""What runs at the hub: the rounds, their record, and the simulation of a whole federation."""
