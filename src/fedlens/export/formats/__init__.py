"""Formats of exported models, one a file."""
