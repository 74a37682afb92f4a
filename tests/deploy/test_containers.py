"""The image and the federation of deploy/, built and run by podman.

Needs root, and podman, podman-compose (PyPI) and, to make the base image, debootstrap. Without systemd, as in a
container, set CONTAINERS_CONF=deploy/docker/containers.conf.

FEDLENS_IMAGE          an image that is there already, in place of one that is built
FEDLENS_BUILD_OPTIONS  options of build-offline.sh: "--torch none --wheels FOLDER --versions FILE"
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.flower.processes import free_port

from fedlens.tracking.metrics import read_metrics

ROOT = Path(__file__).parents[2]
NEEDED = ("podman", "podman-compose", *(() if "FEDLENS_IMAGE" in os.environ else ("debootstrap",)))
MISSING = [tool for tool in NEEDED if shutil.which(tool) is None] + ["root"] * (os.getuid() != 0)
LEAST = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
"""What every service of compose.yaml has, too."""

PATIENCE = 300
ROUNDS = 20

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(bool(MISSING), reason=f"not here: {', '.join(MISSING)}"),
]


def until(condition: Callable[[], bool], what: str) -> None:
    """Every look is a process of its own, so there are few."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE} s in vain for {what}"
        time.sleep(0.5)


def rounds(logs: Path) -> list[int]:
    """The rounds of the only run in `logs`, so far."""
    files = list(logs.glob("*/metrics.jsonl"))
    return [line["round"] for line in read_metrics(files[0])] if files else []


def folder(volume: str) -> Path:
    """Where its files are on this machine."""
    return Path(podman("volume", "inspect", "--format", "{{.Mountpoint}}", volume))


def podman(*arguments: str, status: int | None = 0) -> str:
    """Output and errors of podman, without its own log; it must end with `status` (None: with any)."""
    done = subprocess.run(["podman", *arguments], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert status is None or done.returncode == status, f"{shlex.join(arguments)}:\n{done.stdout}{done.stderr}"
    return "\n".join(line for line in (done.stdout + done.stderr).splitlines() if not line.startswith('time="'))


@pytest.fixture(scope="module")
def image() -> str:
    if name := os.environ.get("FEDLENS_IMAGE"):
        return name
    name = "localhost/fedlens:test"
    options = shlex.split(os.environ.get("FEDLENS_BUILD_OPTIONS", ""))
    subprocess.run([ROOT / "deploy/docker/build-offline.sh", "--tag", name, *options], check=True)
    return name


@pytest.fixture
def logs() -> Iterator[str]:
    """A new volume for runs; what still uses it goes with it."""
    name = f"fedlens-test-logs-{os.getpid()}"
    podman("volume", "create", name)
    yield name
    podman("volume", "rm", "--force", name)


class Compose:
    """compose.yaml as a project of its own."""

    def __init__(self, image: str) -> None:
        self.project = f"fedlens-test-{os.getpid()}"
        self._environment = {**os.environ, "FEDLENS_IMAGE": image, "TENSORBOARD_PORT": str(free_port())}

    def __call__(self, *arguments: str) -> None:
        line = ["podman-compose", "--project-name", self.project, "--file", str(ROOT / "deploy/compose.yaml")]
        done = subprocess.run(
            [*line, *arguments], capture_output=True, text=True, env=self._environment, check=False, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def container(self, service: str) -> str:
        label = "label=com.docker.compose"
        words = ("--filter", f"{label}.project={self.project}", "--filter", f"{label}.service={service}")
        (found,) = podman("ps", "--all", "--quiet", *words).splitlines()
        return found

    def state(self, service: str, field: str) -> str:
        return podman("inspect", "--format", f"{{{{.{field}}}}}", self.container(service))

    def restarted(self, service: str) -> bool:
        return self.state(service, "RestartCount") != "0"

    def killed(self, service: str) -> None:
        """Kill it, as a machine without memory does; it is started again."""
        os.kill(int(self.state(service, "State.Pid")), signal.SIGKILL)
        until(lambda: self.state(service, "State.Running") == "false" or self.restarted(service), f"{service}'s end")
        if not self.restarted(service):  # podman without systemd does not follow `restart`
            podman("start", self.container(service))

    def ends(self, service: str) -> int:
        """Its exit status."""
        until(lambda: self.state(service, "State.Running") == "false", f"the end of {service}")
        return int(self.state(service, "State.ExitCode"))

    def folder(self, volume: str) -> Path:
        return folder(f"{self.project}_{volume}")


@pytest.fixture
def compose(image: str) -> Iterator[Compose]:
    made = Compose(image)
    try:
        yield made
    finally:
        made("down", "--volumes", "--timeout", "1")


def test_a_federation_with_a_killed_site_and_server_is_the_local_run(compose: Compose, image: str) -> None:
    compose("up", "--detach", "--no-build")
    logs = compose.folder("logs")
    until(lambda: 2 in rounds(logs), "the second round")
    for service in ("server", "site1", "site2", "tensorboard"):
        healthy = lambda name=service: podman("healthcheck", "run", compose.container(name), status=None) == ""  # noqa: E731
        until(healthy, f"the health of {service}")
    compose.killed("site2")
    until(lambda: podman("logs", compose.container("site2")).count("joined ") > 1, "site2 to join again")
    compose.killed("server")
    until(lambda: "going on after round" in podman("logs", compose.container("server")), "the server to go on")
    assert [compose.ends(name) for name in ("server", "site1", "site2")] == [0, 0, 0]
    assert rounds(logs) == [*range(1, ROUNDS + 1)]
    (run,) = logs.iterdir()
    assert (run / "report.html").exists()

    volumes = [f"--volume={compose.project}_{name}:/fedlens/{name}" for name in ("data", "logs")]
    words = ("run", "config.yaml", "data.source=clients", "data.path=data", "--name", "local")
    podman("run", "--rm", "--network", "none", *LEAST, *volumes, image, *words)
    (local,) = logs.glob("local-*")
    lines, alone = (read_metrics(place / "metrics.jsonl") for place in (run, local))
    assert lines[0]["test"]["loss"] == pytest.approx(alone[0]["test"]["loss"], rel=1e-4)
    assert all(len(line["cohort"]) == 2 and not line["failures"] for line in lines), "the kills lost no update"
    federated, simulated = (found[-1]["test"]["accuracy"] for found in (lines, alone))
    assert federated == pytest.approx(simulated, abs=0.01), "roundings grow over twenty rounds"
    assert federated > 0.5, "chance is 0.1"


def test_nobody_has_the_keys_of_another(compose: Compose) -> None:
    compose("up", "--detach", "--no-build", "prepare")
    assert compose.ends("prepare") == 0
    assert sorted(file.name for file in compose.folder("site1-certs").iterdir()) == [
        *("ca.crt", "client.key", "client.pub")
    ]
    held = {str(file.name) for file in compose.folder("server-certs").rglob("*") if file.is_file()}
    assert held == {"ca.crt", "registry.json", "server.crt", "server.key"}
    key = compose.folder("site2-certs") / "client.key"
    assert (key.stat().st_mode & 0o777, key.stat().st_uid) == (0o600, 10001)


def test_sigterm_saves_and_the_run_goes_on_in_another_container(image: str, logs: str) -> None:
    """As PID 1, which has no default for a signal."""
    volume = f"--volume={logs}:/fedlens/logs"
    running = f"{logs}-run"
    words = ("run", "config.yaml", "federated.num_rounds=500")
    podman("run", "--detach", "--name", running, *LEAST, volume, image, *words)
    until(lambda: 2 in rounds(folder(logs)), "the second round")
    podman("stop", "--time", "60", running)
    assert podman("inspect", "--format", "{{.State.ExitCode}}", running) == "143"
    assert "Interrupted by SIGTERM" in podman("logs", running)
    done = rounds(folder(logs))[-1]
    podman("run", "--rm", *LEAST, volume, image, "resume", "latest", f"federated.num_rounds={done + 1}")
    assert rounds(folder(logs)) == [*range(1, done + 2)]
    podman("rm", running)


MISTAKES = {
    "run": (2, "tracking.dir: no run folder can be made in 'logs' (Read-only file system)"),
    "run config.yaml runtime.device=cuda tracking.dir=/tmp": (2, "runtime.device='cuda' "),
    "server --certs certs --server_address 0.0.0.0:8080 tracking.dir=/tmp": (2, "certs/ca.crt: is missing"),
    "server --server_address 127.0.0.1:{taken} tracking.dir=/tmp": (
        1,
        "server.address: 127.0.0.1:{taken} cannot be used",
    ),
    "client --data_dir data --partition_id 0 --certs certs": (2, "certs/ca.crt: is missing"),
    "client --data_dir data --partition_id site-1": (2, "partition_id = 'site-1': must be a whole number"),
}
"""Command → exit status, and how its last line begins. The volume of logs is read-only, that of certificates empty."""


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_and_a_status(image: str, logs: str, line: str) -> None:
    status, words = MISTAKES[line]
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        volume = f"--volume={logs}:/fedlens/logs:ro"
        arguments = line.format(taken=taken).split()
        said = podman("run", "--rm", "--network", "host", *LEAST, volume, image, *arguments, status=status)
    *before, last = said.splitlines()
    assert last.startswith(words.format(taken=taken)), said
    assert all(one.startswith("note: ") for one in before), said


def test_the_labels_and_the_user(image: str) -> None:
    found = json.loads(podman("image", "inspect", image))[0]
    assert found["User"] == "10001:10001"
    assert {"org.opencontainers.image.title", "org.opencontainers.image.version"} <= found["Labels"].keys()
    assert "fedlens health" in " ".join(found["Healthcheck"]["Test"])
    tools = "for tool in cc gcc make git; do command -v $tool; done; true"
    assert podman("run", "--rm", "--entrypoint", "sh", image, "-c", tools) == ""
