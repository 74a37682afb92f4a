"""`fedlens doctor`: what stands between a client and its server, one thing after the other."""
