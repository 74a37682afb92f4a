"""The manifests without a cluster's tools: the base agrees with itself, with the command line and with the chart."""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Callable

import jsonschema
import pytest
import yaml
from tests.deploy.checks import faults, quantity, understood
from tests.deploy.objects import (
    BASE,
    CHART,
    OVERLAY_NAMES,
    OVERLAYS,
    ROOT,
    Object,
    base,
    named,
    pod,
    write_manifests,
)

from fedlens.build.load import load
from fedlens.config.site import load_site

SERVER, SITES, BOARD = ("StatefulSet", "fedlens-server"), ("StatefulSet", "fedlens-site"), "fedlens-tensorboard"
Break = Callable[[dict[tuple[str, str], Object]], object]


def test_the_base_is_what_the_chart_was_when_it_was_rendered() -> None:
    written = (BASE / "chart.sha256").read_text(encoding="utf-8").strip()
    assert written == write_manifests().digest(), "run tools/write_manifests.py"


def test_the_base_is_without_faults() -> None:
    assert faults(base()) == []


def test_what_the_base_holds() -> None:
    kinds = sorted(f"{kind} {name.removeprefix('fedlens-')}" for kind, name in named(base()))
    assert kinds == sorted(
        [
            *("StatefulSet server", "StatefulSet site", "Deployment tensorboard"),
            *("ConfigMap server", "ConfigMap site", "Service server", "Service tensorboard"),
            *(f"NetworkPolicy {name}" for name in ("server", "site", "tensorboard")),
            *(f"PodDisruptionBudget {name}" for name in ("server", "site", "tensorboard")),
        ]
    )


def test_the_chart_has_the_projects_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == chart["version"] == project["version"]


@pytest.mark.parametrize("name", OVERLAY_NAMES)
def test_an_overlays_files_are_there_and_fedlens_takes_them(name: str) -> None:
    folder = OVERLAYS / name
    asked = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    used = {"kustomization.yaml", *(patch["path"] for patch in asked["patches"])}
    used |= {file for config in asked["configMapGenerator"] for file in config["files"]}
    assert used == {path.name for path in folder.iterdir()}
    assert all((folder / path).resolve().is_dir() for path in asked["resources"])
    assert load_site(folder / "site.yaml", ["partition_id=1"]).stay
    if "config.yaml" in used:
        assert load(folder / "config.yaml").tracking.name == name


def mistakes(values: Object) -> list[str]:
    """What the chart's schema says of values; Helm asks it, too."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    return [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(values)]


def test_the_values_have_a_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert mistakes(defaults) == []
    assert schema["properties"].keys() - {"global"} == defaults.keys()
    for section in ("image", "server", "site", "tensorboard"):
        assert schema["properties"][section]["properties"].keys() == defaults[section].keys()
    assert mistakes({"site": {"client": ["a"]}}) == ["Additional properties are not allowed ('client' was unexpected)"]
    assert len(mistakes({"port": 80, "site": {"clients": ["Berlin"]}})) == 2


@pytest.mark.parametrize("name", OVERLAY_NAMES)
def test_the_values_of_an_overlay(name: str) -> None:
    values = yaml.safe_load((CHART / f"values-{name}.yaml").read_text(encoding="utf-8"))
    assert mistakes(values) == []
    folder = OVERLAYS / name
    assert values["site"]["config"] == (folder / "site.yaml").read_text(encoding="utf-8")
    if (folder / "config.yaml").exists():
        assert values["server"]["config"] == (folder / "config.yaml").read_text(encoding="utf-8")


def container(objects: dict[tuple[str, str], Object], key: tuple[str, str] = SERVER) -> Object:
    return pod(objects[key])["containers"][0]


def volume(objects: dict[tuple[str, str], Object], key: tuple[str, str], name: str) -> Object:
    return next(one for one in pod(objects[key])["volumes"] if one["name"] == name)


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (lambda o: o[SERVER]["spec"]["template"]["metadata"]["labels"].pop("app.kubernetes.io/instance"), "selects []"),
        (lambda o: o["Service", BOARD]["spec"]["selector"].update(tier="web"), f"Service {BOARD}: "),
        (lambda o: o.pop(("NetworkPolicy", "fedlens-site")), "fedlens-site has no NetworkPolicy"),
        (lambda o: o.pop(("PodDisruptionBudget", BOARD)), f"{BOARD} has no PodDisruptionBudget"),
        (lambda o: pod(o[SERVER])["volumes"].pop(), "fedlens-server mounts"),
        (lambda o: o.pop(("ConfigMap", "fedlens-site")), "no ConfigMap fedlens-site"),
        (
            lambda o: volume(o, ("Deployment", BOARD), "runs")["persistentVolumeClaim"].update(claimName="runs"),
            "no StatefulSet makes the claim runs",
        ),
        (lambda o: container(o)["ports"][0].update(containerPort=8081), "port 8081 is not in its command line"),
        (lambda o: o["Service", "fedlens-server"]["spec"]["ports"][0].update(port=80), "no container has the port"),
        (
            lambda o: o["NetworkPolicy", "fedlens-server"]["spec"]["ingress"][0]["ports"][0].update(port=80),
            "NetworkPolicy fedlens-server: other ports",
        ),
        (
            lambda o: o["NetworkPolicy", "fedlens-site"]["spec"]["egress"][1]["ports"][0].update(port=80),
            "keeps the sites from fedlens-server:8080",
        ),
        (lambda o: pod(o[SITES]).update(automountServiceAccountToken=True), "fedlens-site gets a token"),
        (lambda o: pod(o[SERVER])["securityContext"].pop("fsGroup"), "fedlens-server: {"),
        (lambda o: container(o)["securityContext"]["capabilities"].update(add=["NET_ADMIN"]), "NET_ADMIN"),
        (lambda o: container(o)["resources"]["requests"].update(cpu="3"), "cpu 3 of 2"),
        (lambda o: container(o)["livenessProbe"]["exec"]["command"].insert(1, "helth"), "No such command"),
        (lambda o: container(o)["args"].insert(1, "--servce"), "No such option"),
        (lambda o: container(o)["args"].append("tracking.dir=/fedlens/runs"), "/fedlens/runs is on no volume"),
        (lambda o: container(o, SITES)["volumeMounts"].pop(3), "/fedlens/state is on no volume"),
        (
            lambda o: volume(o, SERVER, "certs")["secret"]["items"][3].update(key="tls.key"),
            "are not what `fedlens server --certs` reads",
        ),
        (
            lambda o: volume(o, SITES, "certs")["projected"]["sources"][1]["secret"]["items"][1].update(path="1/key"),
            "are not what `fedlens client --certs` reads",
        ),
        (lambda o: o[SITES]["spec"].update(replicas=3), "and the pods are ['0', '1', '2']"),
        (lambda o: container(o, SITES)["volumeMounts"][1].pop("subPathExpr"), "a pod sees more than its own key"),
    ],
)
def test_a_fault_is_found(broken: Break, line: str) -> None:
    objects = named(copy.deepcopy(base()))
    broken(objects)
    found = faults(list(objects.values()))
    assert any(line in one for one in found), found


def test_quantities() -> None:
    assert quantity("500m") * 4 == quantity(2) == 2
    assert quantity("1Gi") == 1024 * quantity("1Mi")
    for text in ("2G i", "1gi", "-1", "", "1.5.5"):
        with pytest.raises(ValueError, match="is no quantity"):
            quantity(text)


def test_a_command_line_is_understood_or_not() -> None:
    assert understood(["client", "--partition_id", "$(PARTITION)"]) is None
    assert understood(["client", "--partition"]) is not None
