"""Clients on other machines: Flower carries the messages, over gRPC."""
