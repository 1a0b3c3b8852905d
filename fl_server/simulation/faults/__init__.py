"""Deterministic fault simulation: the real rounds, journal, outbox and spool on machines that die, all by one seed."""
