"""How the ranks of one silo train one adapter together: one file a way, which ``train.parallel`` names as a call."""
