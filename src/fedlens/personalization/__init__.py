"""Personalisation methods, one paper per file."""
