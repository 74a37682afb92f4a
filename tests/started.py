"""`fedlens` commands in processes of their own that start quickly: they are forked from one process which has imported
everything already, so a start takes a tenth of a second and not four."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["fedlens.api", "fedlens.cli.main", "fedlens.session.run", "fedlens.reports.html"])


def _command(output: Connection, arguments: tuple[str, ...]) -> None:
    """In the new process: in a group of its own, with both outputs in `output`."""
    from fedlens.cli.main import main

    os.setsid()
    for number in (1, 2):
        os.dup2(output.fileno(), number)
    output.close()
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    sys.argv = ["fedlens", *arguments]
    main()


class Started:
    """One running command."""

    def __init__(self, *arguments: str) -> None:
        self._output, end = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(target=_command, args=(end, arguments))
        self._process.start()
        end.close()
        assert self._process.pid
        self.pid = self._process.pid

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    def ended(self, seconds: float = 200) -> tuple[int, str]:
        """Exit status and output, once it and all that share its output have ended; killed after so many seconds."""
        deadline, said = time.monotonic() + seconds, b""
        try:
            while self._output.poll(max(0.0, deadline - time.monotonic())):
                if not (more := os.read(self._output.fileno(), 1 << 16)):
                    self._process.join()
                    assert self._process.exitcode is not None
                    return self._process.exitcode, said.decode()
                said += more
            raise AssertionError(f"has not ended in {seconds:g} s:\n{said.decode()}")
        finally:
            self._process.kill()
