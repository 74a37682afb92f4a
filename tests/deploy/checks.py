"""What schemas do not see in manifests. Every check gives one line for each fault that it finds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import typer
from tests.deploy.objects import Object, containers, named, of_component, pod, workloads

from fedlens.build.load import load
from fedlens.cli.main import app
from fedlens.config.site import SiteConfig, load_site
from fedlens.flower.kubernetes import CLIENT_FILES, PREFIX, SERVER_FILES

UNITS = {"": 1, "m": Decimal("0.001"), "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
USER = 10001
"""Of the image."""


def quantity(text: Any) -> Decimal:
    """A quantity in its unit's base; raises ValueError where it is none."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(m|[KMGT]i|)", str(text))
    if not found:
        raise ValueError(f"{text!r} is no quantity")
    return Decimal(found[1]) * UNITS[found[2]]


def selectors(objects: list[Object]) -> Iterator[str]:
    """Every selector finds a pod, and every workload its own pods."""
    labels = {one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"] for one in workloads(objects)}
    for one in objects:
        name = f"{one['kind']} {one['metadata']['name']}"
        for selector in _selectors(one):
            chosen = [pods for pods, found in labels.items() if selector.items() <= found.items()]
            if one in workloads(objects) and selector == one["spec"]["selector"]["matchLabels"]:
                if chosen != [one["metadata"]["name"]]:
                    yield f"{name} selects {chosen}"
            elif len(chosen) != 1 and not _elsewhere(one, objects):
                yield f"{name}: {selector} selects {chosen}"


def _elsewhere(one: Object, objects: list[Object]) -> bool:
    """The policy of a server names the sites, which need not be among the objects."""
    return one["kind"] == "NetworkPolicy" and of_component(objects, "site", "StatefulSet") is None


def _selectors(value: Any) -> Iterator[dict[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "matchLabels" or (key == "selector" and "matchLabels" not in inner):
                yield inner
            else:
                yield from _selectors(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _selectors(inner)


def guarded(objects: list[Object]) -> Iterator[str]:
    """Every workload has a policy and a budget of its own."""
    there = named(objects)
    for one in workloads(objects):
        for kind in ("NetworkPolicy", "PodDisruptionBudget"):
            other = there.get((kind, one["metadata"]["name"]))
            if other is None:
                yield f"{one['metadata']['name']} has no {kind}"
                continue
            selector = other["spec"].get("selector") or other["spec"]["podSelector"]
            if selector != one["spec"]["selector"]:
                yield f"{kind} {one['metadata']['name']} is for {selector}"


def volumes(objects: list[Object]) -> Iterator[str]:
    """What is mounted is there, and what is there is mounted."""
    there = named(objects)
    for one in workloads(objects):
        name = one["metadata"]["name"]
        held = {volume["name"]: volume for volume in pod(one)["volumes"]}
        claims = {claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", ())}
        mounted = {mount["name"] for container in containers(one) for mount in container["volumeMounts"]}
        if mounted != held.keys() | claims:
            yield f"{name} mounts {sorted(mounted)}, and has {sorted(held.keys() | claims)}"
        for volume in held.values():
            config = volume.get("configMap", {}).get("name")
            if config and ("ConfigMap", config) not in there:
                yield f"{name}: no ConfigMap {config}"
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim and claim not in _claims(objects):
                yield f"{name}: no StatefulSet makes the claim {claim}"
        for container in containers(one):
            if "/tmp" not in {mount["mountPath"] for mount in container["volumeMounts"]}:
                yield f"{name}: {container['name']} has no /tmp, and its root is read-only"


def _claims(objects: list[Object]) -> set[str]:
    """The names of the claims that StatefulSets make."""
    return {
        f"{claim['metadata']['name']}-{one['metadata']['name']}-{_first(one) + number}"
        for one in workloads(objects)
        for claim in one["spec"].get("volumeClaimTemplates", ())
        for number in range(one["spec"]["replicas"])
    }


def _first(workload: Object) -> int:
    return int(workload["spec"].get("ordinals", {}).get("start", 0))


def ports(objects: list[Object]) -> Iterator[str]:
    """Services, policies, command lines and site.yaml name the ports that containers have."""
    open_ports = {}
    for one in workloads(objects):
        found = {port["name"]: port["containerPort"] for c in containers(one) for port in c.get("ports", ())}
        open_ports[one["metadata"]["name"]] = found
        for number in found.values():
            words = [*containers(one)[-1]["args"], *containers(one)[-1]["livenessProbe"]["exec"]["command"]]
            if sum(str(number) in (word, word.rpartition(":")[2]) for word in words) < 2:
                yield f"{one['metadata']['name']}: port {number} is not in its command line and its probe"
    for one in objects:
        name = one["metadata"]["name"]
        if one["kind"] == "Service":
            for port in one["spec"]["ports"]:
                if open_ports.get(name, {}).get(port["targetPort"]) != port["port"]:
                    yield f"Service {name}: no container has the port {port}"
        if one["kind"] == "NetworkPolicy":
            for rule in one["spec"]["ingress"]:
                if [port["port"] for port in rule["ports"]] != list(open_ports[name].values()):
                    yield f"NetworkPolicy {name}: other ports than {open_ports[name]}"
    yield from _site_address(objects)


def _site_address(objects: list[Object]) -> Iterator[str]:
    policy, config = of_component(objects, "site", "NetworkPolicy"), of_component(objects, "site", "ConfigMap")
    if policy is None or config is None:
        return
    host, _, port = _site(config).server_address.rpartition(":")
    allowed = [item["port"] for rule in policy["spec"]["egress"] for item in rule["ports"]]
    if int(port) not in allowed:
        yield f"NetworkPolicy {policy['metadata']['name']} keeps the sites from {host}:{port}"
    service = of_component(objects, "server", "Service")
    if service and (host, int(port)) != (service["metadata"]["name"], service["spec"]["ports"][0]["port"]):
        yield f"site.yaml: {host}:{port} is not the Service {service['metadata']['name']}"


def hardened(objects: list[Object]) -> Iterator[str]:
    """Nobody is root, writes to the image, keeps capabilities, or has a token of the cluster."""
    for one in workloads(objects):
        name, spec = one["metadata"]["name"], pod(one)
        if spec["automountServiceAccountToken"] is not False or spec["enableServiceLinks"] is not False:
            yield f"{name} gets a token, or variables of Services"
        wanted = {"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER}
        wanted["seccompProfile"] = {"type": "RuntimeDefault"}
        if not wanted.items() <= spec["securityContext"].items():
            yield f"{name}: {spec['securityContext']}"
        strict = {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        for container in containers(one):
            if container["securityContext"] != strict:
                yield f"{name}: {container['name']}: {container['securityContext']}"


def resources(objects: list[Object]) -> Iterator[str]:
    """Every container asks for what it needs and has a limit, in quantities that can be read."""
    for one in workloads(objects):
        for container in containers(one):
            asked, most = container["resources"]["requests"], container["resources"]["limits"]
            for name in ("cpu", "memory"):
                if not 0 < quantity(asked[name]) <= quantity(most[name]):
                    yield f"{one['metadata']['name']}: {container['name']}: {name} {asked[name]} of {most[name]}"
        for claim in one["spec"].get("volumeClaimTemplates", ()):
            quantity(claim["spec"]["resources"]["requests"]["storage"])
        for volume in pod(one)["volumes"]:
            if "emptyDir" in volume:
                quantity(volume["emptyDir"]["sizeLimit"])


def probed(objects: list[Object]) -> Iterator[str]:
    """Every container has exec probes with commands that exist."""
    for one in workloads(objects):
        for container in pod(one)["containers"]:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                program, *words = container[probe]["exec"]["command"]
                if program != "fedlens" or (fault := understood(words)):
                    yield f"{container['name']}: {probe}: {program} {words}: {fault}"


def commands(objects: list[Object]) -> Iterator[str]:
    """The images' entry point understands the arguments, and the folders that they name are mounted."""
    for one in workloads(objects):
        for container in containers(one):
            mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
            words = container["args"]
            if "command" not in container and (fault := understood(words)):
                yield f"{container['name']}: {words}: {fault}"
            for word in words:
                for path in re.findall(r"/(?:fedlens|etc)/[\w/.]+", word):
                    if not any(Path(path).is_relative_to(mount) for mount in mounts):
                        yield f"{container['name']}: {path} is on no volume"


def understood(words: list[str]) -> str | None:
    """None where the command line parses; nothing is run."""
    command = typer.main.get_command(app)
    context = click.Context(command, info_name="fedlens")
    words = [re.sub(r"^\$\([A-Z]+\)$", "0", word) for word in words]
    try:
        while isinstance(command, click.Group):
            _, command, words = command.resolve_command(context, words)
        command.make_context(command.name, list(words), parent=context)
    except click.ClickException as error:
        return error.format_message()
    return None


def configurations(objects: list[Object]) -> Iterator[str]:
    """FedLens takes the ConfigMaps' files, and what they name is mounted."""
    server = of_component(objects, "server", "ConfigMap")
    if server is not None:
        with TemporaryDirectory() as folder:
            file = Path(folder, "config.yaml")
            file.write_text(server["data"]["config.yaml"], encoding="utf-8")
            if load(file).tracking.name is None:
                yield "config.yaml has no tracking.name: a server that is started again knows its run by it"
    config, sites = of_component(objects, "site", "ConfigMap"), of_component(objects, "site", "StatefulSet")
    if config is None or sites is None:
        return
    site, container = _site(config), pod(sites)["containers"][0]
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
    if not site.stay:
        yield "site.yaml: without stay, a site ends with the run and is started again and again"
    for path, kept in ((site.certs, False), (site.data_dir, False), (site.state_dir, True), (site.cache_dir, True)):
        over = [only_read for mount, only_read in mounts.items() if path is not None and path.is_relative_to(mount)]
        if not over or (kept and any(over)):
            yield f"site.yaml: {path} is on no volume that {'can be written' if kept else 'is mounted'}"
    if str(site.state_dir) not in container["livenessProbe"]["exec"]["command"]:
        yield "site.yaml: the probe looks at another state_dir"


def _site(config: Object) -> SiteConfig:
    with TemporaryDirectory() as folder:
        file = Path(folder, "site.yaml")
        file.write_text(config["data"]["site.yaml"], encoding="utf-8")
        return load_site(file, ["partition_id=0"])


def secrets(objects: list[Object]) -> Iterator[str]:
    """Secrets are those of `fedlens certs export`, with the files where the command line looks for them."""
    server, sites = (of_component(objects, component, "StatefulSet") for component in ("server", "site"))
    if server is not None:
        (volume,) = [volume["secret"] for volume in pod(server)["volumes"] if "secret" in volume]
        if not volume["secretName"].startswith(PREFIX) or volume["defaultMode"] != 0o440:
            yield f"server: {volume}"
        if {item["key"]: item["path"] for item in volume["items"]} != {path.name: str(path) for path in SERVER_FILES}:
            yield f"server: {volume['items']} are not what `fedlens server --certs` reads"
    if sites is None:
        return
    (volume,) = [volume["projected"] for volume in pod(sites)["volumes"] if "projected" in volume]
    found = {}
    for source in volume["sources"]:
        for item in source["secret"]["items"]:
            folder, _, file = item["path"].partition("/")
            found.setdefault((folder, source["secret"]["name"]), {})[item["key"]] = file
    first = _first(sites)
    folders = [str(first + number) for number in range(sites["spec"]["replicas"])]
    if [folder for folder, _ in found] != folders or volume["defaultMode"] != 0o440:
        yield f"site: {found.keys()}, and the pods are {folders}"
    for (_, secret), files in found.items():
        if not secret.startswith(PREFIX) or files != {str(path): str(path) for path in CLIENT_FILES}:
            yield f"site: {secret}: {files} are not what `fedlens client --certs` reads"
    (mount,) = [mount for mount in pod(sites)["containers"][0]["volumeMounts"] if mount["name"] == "certs"]
    if mount.get("subPathExpr") != "$(PARTITION)":
        yield f"site: a pod sees more than its own key: {mount}"


CHECKS: tuple[Callable[[list[Object]], Iterator[str]], ...] = (
    *(selectors, guarded, volumes, ports, hardened, resources, probed, commands, configurations, secrets),
)


def faults(objects: list[Object]) -> list[str]:
    return [line for check in CHECKS for line in check(objects)]
