"""The process that a SuperLink runs in. It exits when the server that started it does, however that happens."""

from __future__ import annotations

import logging
import os
import sys
import threading


def main() -> None:
    """Run Flower's own command line until standard input closes, whose other end the server holds."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.getLogger("uvicorn.access").addFilter(lambda _record: False)  # it logs a line for every poll of the server
    from flwr.superlink.cli import flower_superlink

    from fedlens.flower.internals.clocks import tell_the_time

    tell_the_time()
    flower_superlink()


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
