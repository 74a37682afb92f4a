"""The Dockerfile and compose.yaml agree with the command line and with each other. No container is started."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import click
import pytest
import typer
import yaml

from fedlens.build.load import load
from fedlens.cli.health import server as health_server
from fedlens.cli.main import app
from fedlens.config.site import load_site
from fedlens.flower.addresses import parted

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy/docker/Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
SITES = ("site1", "site2")
SHELL = SERVICES["prepare"]["command"][0]

LINES = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE)).splitlines()
"""The instructions, one a line."""


def instructions(name: str) -> list[str]:
    return [line.removeprefix(name).strip() for line in LINES if line.startswith(f"{name} ")]


def stage(name: str) -> list[str]:
    """The instructions of one stage."""
    start = next(index for index, line in enumerate(LINES) if re.fullmatch(rf"FROM \S+ AS {name}", line))
    rest = LINES[start + 1 :]
    return rest[: next((index for index, line in enumerate(rest) if line.startswith("FROM ")), None)]


def called(arguments: list[str]) -> dict:
    """The parameters of the command that `arguments` call, by the command line's own parser.

    Raises:
        click.UsageError: there is no such command or option.
    """
    command: click.Command = typer.main.get_command(app)
    context = None
    while isinstance(command, click.Group):
        name, *arguments = arguments
        context = click.Context(command, parent=context, info_name=name)
        found = command.get_command(context, name)
        assert found is not None, name
        command = found
    return command.make_context(command.name, list(arguments), parent=context).params


def commands() -> Iterator[tuple[str, list[str]]]:
    """Everything that is asked of `fedlens`: where it stands, and the arguments."""
    yield "Dockerfile", yaml.safe_load(instructions("CMD")[-1])
    for name, service in SERVICES.items():
        if "entrypoint" not in service:
            yield name, service["command"]
        if service.get("healthcheck", {}).get("test", [])[1:2] == ["fedlens"]:
            yield f"{name}'s health", service["healthcheck"]["test"][2:]
    for line in SHELL.splitlines():
        if line.startswith("fedlens "):
            yield "prepare", shlex.split(line)[1:]


@pytest.mark.parametrize(("where", "arguments"), [*commands()], ids=lambda value: value if type(value) is str else "")
def test_every_command_is_one_that_the_command_line_takes(where: str, arguments: list[str]) -> None:
    called(arguments)


@pytest.mark.parametrize("role", ["server", "client --state_dir state"])
def test_the_image_asks_for_its_health(role: str) -> None:
    """And for nothing where no role is set."""
    (check,) = [line for line in stage("fedlens") if line.startswith("HEALTHCHECK")]
    _, _, script = json.loads(check.partition(" CMD ")[2])
    shown = lambda value: subprocess.run(  # noqa: E731
        ["sh", "-c", f"echo {script}"], env={"FEDLENS_HEALTH": value}, capture_output=True, text=True, check=True
    ).stdout.split()
    assert shown("") == []
    name, *arguments = shown(role)
    assert name == "fedlens"
    called(arguments)


def test_the_default_is_the_image_and_the_user_is_a_number() -> None:
    """Kubernetes' runAsNonRoot cannot check a name."""
    assert [line for line in LINES if line][-1] == "FROM fedlens"
    assert instructions("USER") == ["10001:10001"]
    assert "USER 10001:10001" in stage("runtime")
    for name in ("fedlens", "jupyter"):
        assert any(line.startswith("HEALTHCHECK") for line in stage(name))
        assert any(line.startswith("ENTRYPOINT [") for line in stage(name))
        assert not any(line.startswith("RUN") for line in stage(name)), "tools stay in the stages before"


def test_the_dockerfile_keeps_to_what_podman_4_builds() -> None:
    assert "<<" not in DOCKERFILE and "--link" not in DOCKERFILE


def sources() -> list[str]:
    copies = [line.split() for line in instructions("COPY") if "--from" not in line]
    return [word for words in copies for word in words[:-1] if not word.startswith("--")]


def passes(path: str) -> bool:
    """Whether .dockerignore lets `path` into the build."""
    kept = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.lstrip("!")
        if line and not line.startswith("#"):
            parts = [Path(path), *Path(path).parents][:-1]
            names = [str(part) if not pattern.startswith("**/") else part.name for part in parts]
            if any(fnmatch(name, pattern.removeprefix("**/")) for name in names):
                kept = line.startswith("!")
    return kept


@pytest.mark.parametrize("source", sources())
def test_what_is_copied_exists_and_is_not_ignored(source: str) -> None:
    assert (ROOT / source).exists()
    assert passes(source)


@pytest.mark.parametrize(
    "path",
    [
        *(".git/config", ".venv/bin/python", "logs/run/config.yaml", "certs/ca.key", "data/client1", "site/index.html"),
        *("tests/test_site.py", "src/fedlens/__pycache__/api.pyc", "benchmarks/results", ".env"),
    ],
)
def test_what_stays_out_of_the_build(path: str) -> None:
    assert not passes(path)


def test_the_pins_count() -> None:
    installs = [command for line in instructions("RUN") for command in line.split("&&") if "pip install" in command]
    assert installs
    assert all('constraint "$CONSTRAINTS"' in command for command in installs)
    assert "ARG CONSTRAINTS=constraints.txt" in stage("build")


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_the_least_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True and service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
    assert not service.keys() & {"privileged", "cap_add", "user", "pid", "ipc"}


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "prepare"])
def test_what_stays_has_a_health_check(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


def mounts(name: str) -> dict[str, str]:
    """Volume → folder."""
    return dict(volume.split(":")[:2] for volume in SERVICES[name]["volumes"])


def test_volumes_are_declared_used_and_lie_on_folders_of_the_image() -> None:
    used = {volume for name in SERVICES for volume in mounts(name)}
    assert used == set(COMPOSE["volumes"])
    (made,) = [line for line in stage("runtime") if "install --directory" in line]
    assert {folder for name in SERVICES for folder in mounts(name).values()} <= set(made.split())


def test_everyone_has_certificates_of_its_own() -> None:
    for name in ("server", *SITES):
        assert [volume for volume in mounts(name) if volume.endswith("-certs")] == [f"{name}-certs"]
    assert all(word not in SHELL for word in ("ca.key", "cp -r /tmp/certs ", "cp -r /tmp/certs/. "))


def test_no_secret_is_in_a_variable() -> None:
    assert not any("environment" in service or "env_file" in service for service in SERVICES.values())


@pytest.mark.parametrize("name", SITES)
def test_sites_reach_the_server_by_a_name_of_its_certificate(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    given = called(SERVICES[name]["command"])
    host, port = parted(given["server_address"], "server_address")
    served = called(SERVICES["server"]["command"])
    assert port == parted(served["server_address"], "server.address")[1] == 8080
    assert host == "server" and host in SERVICES
    (create,) = [shlex.split(line)[1:] for line in SHELL.splitlines() if line.startswith("fedlens certs create")]
    assert called(create)["hosts"] == host
    assert set(SERVICES[name]["networks"]) & set(SERVICES["server"]["networks"])


@pytest.mark.parametrize("name", SITES)
def test_a_sites_settings_are_valid(name: str) -> None:
    given = called(SERVICES[name]["command"])
    keys = ("data_dir", "partition_id", "server_address", "certs", "state_dir")
    site = load_site(None, [*given["overrides"], *(f"{key}={given[key]}" for key in keys)])
    assert site.client == f"client{name[-1]}", "the name that its certificate is made for"
    assert str(site.data_dir) == f"data/{site.client}"
    assert Path(called(SERVICES[name]["healthcheck"]["test"][2:])["state_dir"]) == site.state


def test_the_servers_settings_are_valid() -> None:
    """And a server that was killed is started again, and goes on with its run."""
    given = called(SERVICES["server"]["command"])
    assert (str(given["resume"]), SERVICES["server"]["restart"]) == ("auto", "on-failure")
    path, *overrides = given["arguments"]
    assert path == "config.yaml" and path in sources()
    config = load(ROOT / path, overrides)
    assert int(given["min_fit_clients"]) == len(SITES)
    assert str(config.tracking.dir) == mounts("tensorboard")["logs"].removeprefix("/fedlens/") == "logs"


def test_ports_are_those_of_the_image() -> None:
    exposed = " ".join(line for line in stage("fedlens") if line.startswith("EXPOSE")).split()[1:]
    default = health_server.__defaults__
    assert default == ("127.0.0.1:8080",)
    assert exposed == ["8080", "6006"]
    assert SERVICES["tensorboard"]["ports"] == ["127.0.0.1:${TENSORBOARD_PORT:-6006}:6006"]
    assert "--port=6006" in SERVICES["tensorboard"]["command"]
