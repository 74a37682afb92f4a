"""A server's own run in a SuperLink: submitted, claimed as Flower's executor would, and kept alive."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto, run_from_proto
from flwr.proto.control_pb2 import RegisterNodeRequest, StartRunRequest, UnregisterNodeRequest
from flwr.proto.runtime_pb2 import (
    ClaimTaskRequest,
    PullPendingTasksRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import (
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.task_identity import TaskIdentity

from fedlens.errors import ConnectionFailed
from fedlens.flower.internals.direct import DirectControlClient, DirectRuntimeClient
from fedlens.flower.internals.fleet import HEARTBEAT_SECONDS
from fedlens.flower.internals.grid import Grid
from fedlens.flower.internals.parts import LOOK_SECONDS

_CLAIM = frozenset({"/flwr.proto.Runtime/PullPendingTasks", "/flwr.proto.Runtime/ClaimTask"})


class RunLink:
    """A server's own run in a SuperLink whose control and runtime interface is at `address`."""

    def __init__(self, address: str, root_certificates: bytes | None, secret: bytes) -> None:
        self._address = address
        self._root = root_certificates
        self._secret = secret
        self._stopped = threading.Event()
        self.lost = threading.Event()
        """Set when the SuperLink no longer knows this run."""

    def register(self, public_key: bytes, name: str) -> int:
        """Admit the site with this key; gives its node id."""
        with self._control() as client:
            return int(client.RegisterNode(RegisterNodeRequest(public_key=public_key, name=name)).node_id)

    def unregister(self, node_id: int) -> None:
        """Shut a site out."""
        with self._control() as client:
            client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    def claim(self, bundle: Fab, patience: float = 30.0) -> Grid:
        """Submit `bundle` as a run, claim it, and give the grid that drives it.

        Raises:
            ConnectionFailed: the SuperLink did not offer the run within `patience` seconds.
        """
        with self._control() as client:
            run_id = client.StartRun(StartRunRequest(fab=fab_to_proto(bundle))).run_id
        token = self._claimed(run_id, patience)
        grid = Grid(self._address, self._root is None, self._root, token=token)
        answer = grid.client.PullTaskInput(PullTaskInputRequest())
        grid.set_run(run_from_proto(answer.run))
        TaskIdentity.task_id, TaskIdentity.run_id = answer.task_id, answer.run.run_id  # `Message` asks for them
        TaskIdentity.node_id = answer.context.node_id
        threading.Thread(target=self._heartbeats, args=(grid,), daemon=True).start()
        return grid

    def finish(self, grid: Grid, sub_status: str, details: str = "") -> None:
        """Report the run's end to the SuperLink, if it can still be reached."""
        self._stopped.set()
        with suppress(httpx.HTTPError):
            grid.client.PushTaskOutput(PushTaskOutputRequest(sub_status=sub_status, details=details))
        grid.close()

    def _claimed(self, run_id: int, patience: float) -> str:
        interceptors: list[Any] = [
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(master_secret=self._secret, protected_methods=_CLAIM),
        ]
        client = DirectRuntimeClient.from_server_address(self._address, self._root is None, self._root, interceptors)
        until = time.monotonic() + patience
        try:
            while time.monotonic() < until:
                for task in client.PullPendingTasks(PullPendingTasksRequest()).tasks:
                    if task.run_id == run_id:
                        return str(client.ClaimTask(ClaimTaskRequest(task_id=task.task_id)).token)
                time.sleep(LOOK_SECONDS)
        finally:
            client.close()
        raise ConnectionFailed(f"the SuperLink at {self._address} did not offer run {run_id} within {patience:g} s")

    def _heartbeats(self, grid: Grid) -> None:
        while not self._stopped.wait(HEARTBEAT_SECONDS):
            try:
                if not grid.client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success:
                    self.lost.set()
            except httpx.HTTPError:
                continue

    @contextmanager
    def _control(self) -> Iterator[DirectControlClient]:
        interceptors = [RuntimeVersionHttpInterceptor(component_name="flwr CLI")]
        client = DirectControlClient.from_server_address(self._address, self._root is None, self._root, interceptors)
        try:
            yield client
        finally:
            client.close()


def built(files: dict[str, bytes]) -> Fab:
    """A bundle of `files`; the same files give the same hash."""
    import hashlib

    content = build_fab_from_files(files)[0]
    return Fab(hashlib.sha256(content).hexdigest(), content, {})
