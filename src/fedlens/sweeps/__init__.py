"""Several runs as one piece of work: which ones, and several of them at once."""
