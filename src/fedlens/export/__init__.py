"""Trained models in formats that other programs read, with a model card."""
