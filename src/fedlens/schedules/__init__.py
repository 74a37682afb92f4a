"""Schedules of server steps, one per file."""
