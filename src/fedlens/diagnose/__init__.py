"""`fedlens doctor`: diagnoses the connection between a client and its server, one check after another."""
