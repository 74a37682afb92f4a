"""The demo's StatefulSets and Deployments as single pods, for `podman kube play`: it knows neither StatefulSets nor
replicas, projected volumes, the label of the ordinal, folders inside of a Secret's volume, or fsGroup."""

from __future__ import annotations

import json
from typing import Any

from tests.deploy.objects import Object, pod, workloads

ORDINAL = "$(PARTITION)"
TLS = "-in-a-folder"


def as_pods(objects: list[Object], secrets: list[Object], image: str) -> dict[str, list[Object]]:
    """By pod, what has to be played: its ConfigMaps, its Secrets and itself, with the ordinal and the claims written
    out."""
    given = {one["metadata"]["name"]: one for one in (*secrets, *_in_folders(secrets))}
    configs = {one["metadata"]["name"]: _plain(one) for one in objects if one["kind"] == "ConfigMap"}
    found = {}
    for one in workloads(objects):
        for number in range(one["spec"]["replicas"]):
            made = _pod(one, number, image)
            volumes = made["spec"]["volumes"]
            used = [configs[volume["configMap"]["name"]] for volume in volumes if "configMap" in volume]
            used += [given[volume["secret"]["secretName"]] for volume in volumes if "secret" in volume]
            found[made["metadata"]["name"]] = [*used, made]
    return found


def _plain(one: Object) -> Object:
    return {**one, "metadata": {"name": one["metadata"]["name"]}}


def _in_folders(secrets: list[Object]) -> list[Object]:
    """The server's files for TLS lie in a folder, which becomes a volume of its own."""
    return [{**one, "metadata": {"name": one["metadata"]["name"] + TLS}} for one in secrets]


def _pod(workload: Object, number: int, image: str) -> Object:
    name = f"{workload['metadata']['name']}-{number}"
    spec = json.loads(json.dumps(pod(workload)).replace(ORDINAL, str(number)))
    for key in ("affinity", "enableServiceLinks", "automountServiceAccountToken"):
        spec.pop(key, None)
    claims = [claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", ())]
    spec["volumes"] = [_own_secret(volume, number) for volume in spec["volumes"]]
    spec["volumes"] += [{"name": one, "persistentVolumeClaim": {"claimName": f"{one}-{name}"}} for one in claims]
    for container in [*spec.get("initContainers", ()), *spec["containers"]]:
        container["image"] = image
        for variable in container.get("env", ()):
            limit = str(container["resources"]["limits"]["cpu"])
            variable["value"] = str(number) if "fieldRef" in variable.pop("valueFrom") else limit
        for mount in container["volumeMounts"]:
            mount.pop("subPathExpr", None)
    _unfold(spec)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {**spec, "restartPolicy": "Always"}}


def _own_secret(volume: Object, number: int) -> Object:
    """A projected volume of all sites' Secrets becomes that of this site."""
    if "projected" not in volume:
        return volume
    (own,) = [
        source["secret"]
        for source in volume["projected"]["sources"]
        if source["secret"]["items"][0]["path"].startswith(f"{number}/")
    ]
    items = [{"key": item["key"], "path": item["path"].partition("/")[2]} for item in own["items"]]
    return {"name": volume["name"], "secret": {"secretName": own["name"], "defaultMode": 0o440, "items": items}}


def _unfold(spec: dict[str, Any]) -> None:
    for volume in list(spec["volumes"]):
        items = volume.get("secret", {}).get("items", ())
        folded = [item for item in items if "/" in item["path"]]
        if not folded:
            continue
        (folder,) = {item["path"].partition("/")[0] for item in folded}
        volume["secret"]["items"] = [item for item in items if item not in folded]
        flat = [{"key": item["key"], "path": item["path"].partition("/")[2]} for item in folded]
        secret = {**volume["secret"], "secretName": volume["secret"]["secretName"] + TLS, "items": flat}
        spec["volumes"].append({"name": folder, "secret": secret})
        mounts = spec["containers"][0]["volumeMounts"]
        (outer,) = [mount for mount in mounts if mount["name"] == volume["name"]]
        outer.pop("readOnly")  # podman makes the inner mount's folder in it
        mounts.append({"name": folder, "mountPath": f"{outer['mountPath']}/{folder}", "readOnly": True})
