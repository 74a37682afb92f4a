"""Latency models of simulated clients, one per file."""
