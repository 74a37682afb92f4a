"""The demo's pods really run, by `podman kube play`: they end with the figures of a local run, though server and site
are killed meanwhile.

Needs podman 5 (4.3 plays no Secrets), `kubectl`, and the image fedlens:cpu (another: $FEDLENS_IMAGE).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from tests.deploy.objects import OVERLAYS, by_kustomize, program
from tests.deploy.pods import as_pods
from tests.flower.processes import command, until

import fedlens
from fedlens.flower.certificates import create
from fedlens.flower.kubernetes import export_secrets

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

IMAGE = os.environ.get("FEDLENS_IMAGE", "localhost/fedlens:cpu")
NETWORK = "fedlens-pods-test"
SERVER, SITE = "fedlens-server-0-server", "fedlens-site-1-site"

Podman = Callable[..., str]


@pytest.fixture
def podman() -> Iterator[Podman]:
    found = program("podman")

    def call(*arguments: str, given: str = "", check: bool = True) -> str:
        done = subprocess.run([found, *arguments], input=given, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    version = call("--version").split()[-1]
    if int(version.partition(".")[0]) < 5:
        pytest.skip(f"podman {version} is too old: 5 is needed")
    if IMAGE not in call("images", "--format", "{{.Repository}}:{{.Tag}}").split():
        pytest.skip(f"there is no image {IMAGE}")
    yield call


@pytest.fixture
def played(podman: Podman, tmp_path: Path) -> Iterator[Podman]:
    """The pods of the overlay `demo`, in a network of their own."""
    create(tmp_path / "certs", ["fedlens-server"], ["client1", "client2"], 10)
    secrets = [secret.manifest() for secret in export_secrets(tmp_path / "certs").secrets]
    pods = as_pods(by_kustomize(OVERLAYS / "demo"), secrets, IMAGE)
    podman("network", "create", NETWORK)
    try:
        for name, objects in pods.items():
            network = f"{NETWORK}:alias=fedlens-server" if "server" in name else NETWORK
            podman("kube", "play", "--network", network, "-", given=yaml.safe_dump_all(objects))
        for volume in podman("volume", "ls", "--quiet").split():
            if volume.startswith("fedlens-certs-"):  # what the kubelet does for fsGroup
                change = (
                    "--user",
                    "0",
                    "--entrypoint",
                    "chgrp",
                    "--volume",
                    f"{volume}:/v",
                    IMAGE,
                    "-R",
                    "10001",
                    "/v",
                )
                podman("run", "--rm", "--network", "none", *change)
        yield podman
    finally:
        for objects in pods.values():
            podman("kube", "down", "--force", "-", given=yaml.safe_dump_all(objects), check=False)
        podman("network", "rm", "--force", NETWORK, check=False)


def healthy(podman: Podman, container: str) -> bool:
    said = podman("healthcheck", "run", container, check=False)
    return "unhealthy" not in said and "Error" not in said


def accuracies(podman: Podman) -> list[float]:
    lines = podman("exec", SERVER, "sh", "-c", "cat /fedlens/logs/demo-*/metrics.jsonl", check=False).splitlines()
    return [json.loads(line)["test"]["accuracy"] for line in lines if line.startswith("{")]


def test_the_demos_pods_end_as_a_local_run_though_two_are_killed(played: Podman, tmp_path: Path) -> None:
    until(lambda: len(accuracies(played)) >= 2, "two rounds")
    for container in (SERVER, SITE):  # podman starts it again, as a kubelet does
        os.kill(int(played("inspect", "--format", "{{.State.Pid}}", container)), signal.SIGKILL)
    until(lambda: "this server waits until it is stopped" in played("logs", SERVER), "the end of the run", 240)
    said = played("logs", SERVER)
    assert "going on after round" in said
    for container in (SERVER, SITE, "fedlens-tensorboard-0-tensorboard"):
        until(lambda name=container: healthy(played, name), f"{container} is healthy")

    command("data", "sample", "--clients", "2", "--out", str(tmp_path / "sample"))
    place = (f"data.path={tmp_path / 'sample'}", f"tracking.dir={tmp_path / 'logs'}", "tracking.report=false")
    local = fedlens.run(OVERLAYS / "demo" / "config.yaml", *place, show=False)
    assert accuracies(played) == pytest.approx(local.metrics["test.accuracy"].tolist(), abs=0.002)  # 2 of 1,000 images
