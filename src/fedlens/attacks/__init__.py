"""Attacks for testing aggregation rules: the behaviour of malicious clients in a simulation."""
