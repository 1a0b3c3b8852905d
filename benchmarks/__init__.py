"""Every headline figure, made by a command and kept in ``results/TOPIC.json``."""
