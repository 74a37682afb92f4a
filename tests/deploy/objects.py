"""Kubernetes objects as this repository ships them, and as `kubectl kustomize` and `helm template` render them."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "fedlens"
BASE = ROOT / "deploy" / "kubernetes" / "base"
OVERLAYS = ROOT / "deploy" / "kubernetes" / "overlays"
OVERLAY_NAMES = ("demo", "gpu", "site")

Object = dict[str, Any]


@cache
def write_manifests() -> Any:
    """The module tools/write_manifests.py."""
    spec = importlib.util.spec_from_file_location("write_manifests", ROOT / "tools" / "write_manifests.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def base() -> list[Object]:
    """The base, without kustomize: its files, and the ConfigMaps that its kustomizations ask for."""
    found = []
    for part in ("server", "site"):
        folder = BASE / part
        asked = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
        found += [yaml.safe_load((folder / name).read_text(encoding="utf-8")) for name in asked["resources"]]
        for config in asked["configMapGenerator"]:
            metadata = {"name": config["name"], "labels": config["options"]["labels"]}
            data = {name: (folder / name).read_text(encoding="utf-8") for name in config["files"]}
            found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    return found


def by_kustomize(folder: Path) -> list[Object]:
    done = subprocess.run([kubectl(), "kustomize", str(folder)], check=True, capture_output=True, text=True)
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def by_helm(*arguments: str) -> list[Object]:
    return write_manifests().rendered(*arguments, helm=helm())


def helm() -> str:
    return program("helm")


@cache
def kubectl() -> str:
    """kubectl with a kustomize that knows `patches` and labels of a generator."""
    found = program("kubectl")
    told = subprocess.run([found, "version", "--client", "-o", "json"], check=True, capture_output=True, text=True)
    version = json.loads(told.stdout)["clientVersion"]
    if int("".join(filter(str.isdigit, version["minor"]))) < 27:
        pytest.skip(f"kubectl {version['gitVersion']} is too old: 1.27 or newer is needed")
    return found


def program(name: str) -> str:
    """A program on the PATH, or beside this Python."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def named(objects: list[Object]) -> dict[tuple[str, str], Object]:
    return {(one["kind"], one["metadata"]["name"]): one for one in objects}


def workloads(objects: list[Object]) -> list[Object]:
    return [one for one in objects if one["kind"] in ("StatefulSet", "Deployment")]


def pod(workload: Object) -> Object:
    return workload["spec"]["template"]["spec"]


def containers(workload: Object) -> list[Object]:
    return [*pod(workload).get("initContainers", ()), *pod(workload)["containers"]]


def of_component(objects: list[Object], component: str, kind: str) -> Object | None:
    """The one object of that kind and component."""
    found = [
        one
        for one in objects
        if one["kind"] == kind and one["metadata"]["labels"]["app.kubernetes.io/component"] == component
    ]
    return found[0] if found else None
