"""The process that a SuperLink runs in. It ends with the server that started it, however that one ends."""

from __future__ import annotations

import logging
import os
import sys
import threading


def main() -> None:
    """Flower's own command line, until standard input closes: its other end is the server's."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.getLogger("uvicorn.access").addFilter(lambda _record: False)  # a line for every look of the server's
    from flwr.superlink.cli import flower_superlink

    from fedlens.flower.internals.clocks import tell_the_time

    tell_the_time()
    flower_superlink()


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
