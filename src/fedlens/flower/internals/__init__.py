"""All that FedLens uses of Flower 1.38 beyond its public interface, and nothing else.

parts   a message, and the parts in which Flower sends it
fleet   a site's connection to a SuperLink
run     how a server submits and claims its own run in a SuperLink
grid    what the server sends to its sites, and the replies

`tests/flower/test_internals.py` checks this package against the pinned version.
"""
