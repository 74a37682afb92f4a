"""The clients' optimizers, one per file."""
