"""Writes deploy/kubernetes/base from the chart deploy/helm/fedlens with its default values. Needs `helm`.

python tools/write_manifests.py

`base/chart.sha256` is the digest of the chart that was rendered, so that a test without helm can tell a stale base.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"
CHART = DEPLOY / "helm" / "fedlens"
BASE = DEPLOY / "kubernetes" / "base"
DIGEST = BASE / "chart.sha256"
NAMESPACE = "fedlens"
MADE_BY = "# Written by tools/write_manifests.py from deploy/helm/fedlens: change the chart and run it again.\n"

Object = Mapping[str, Any]


def digest() -> str:
    """SHA-256 of the chart's files that the default values use, with their names."""
    found = hashlib.sha256()
    files = [CHART / name for name in ("Chart.yaml", "values.yaml", "config.yaml", "site.yaml")]
    for path in [*files, *sorted((CHART / "templates").iterdir())]:
        found.update(f"{path.relative_to(CHART)}\n".encode() + path.read_bytes())
    return found.hexdigest()


def rendered(*arguments: str, helm: str = "helm") -> list[dict[str, Any]]:
    """The chart's objects, as `helm template` gives them."""
    command = [helm, "template", "fedlens", str(CHART), "--namespace", NAMESPACE, *arguments]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [one for one in yaml.safe_load_all(text) if one]


def component(one: Object) -> str:
    return str(one["metadata"]["labels"]["app.kubernetes.io/component"])


def files(objects: Sequence[Object]) -> dict[Path, str]:
    """The base: a folder for the server and TensorBoard, and one for the sites; ConfigMaps are made from files."""
    written: dict[Path, str] = {}
    for part in ("server", "site"):
        own = [one for one in objects if (component(one) == "site") == (part == "site")]
        (config,) = [one for one in own if one["kind"] == "ConfigMap"]
        others = {f"{component(one)}-{one['kind'].lower()}.yaml": _anywhere(one) for one in own if one is not config}
        written |= {Path(part, name): MADE_BY + _yaml(one) for name, one in others.items()}
        written |= {Path(part, name): text for name, text in config["data"].items()}
        written[Path(part, "kustomization.yaml")] = MADE_BY + _yaml(_kustomization(sorted(others), config))
    return written


def _anywhere(one: Object) -> Object:
    """Without its namespace, which the kustomization gives: patches of an overlay name none, either."""
    metadata = {key: value for key, value in one["metadata"].items() if key != "namespace"}
    return {**one, "metadata": metadata}


def _kustomization(resources: Sequence[str], config: Object) -> Object:
    """A changed configuration does not start a running federation again: the ConfigMap has no hash in its name."""
    options = {"disableNameSuffixHash": True, "labels": config["metadata"]["labels"]}
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": NAMESPACE,
        "resources": list(resources),
        "configMapGenerator": [
            {"name": config["metadata"]["name"], "files": sorted(config["data"]), "options": options}
        ],
    }


def _yaml(value: Object) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, width=120))


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    wanted = files(rendered())
    for path in (*BASE.glob("server/*"), *BASE.glob("site/*")):
        path.unlink()
    for name, text in wanted.items():
        (BASE / name).parent.mkdir(parents=True, exist_ok=True)
        (BASE / name).write_text(text, encoding="utf-8")
    DIGEST.write_text(digest() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
