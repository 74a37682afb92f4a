"""The lists of checks in order, and their execution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from fedlens.diagnose import at_server, joining, machine, reach
from fedlens.diagnose.subject import Subject
from fedlens.diagnose.verdict import Status, Unseen, Verdict


@dataclass(frozen=True)
class Check:
    """One check. `needs`: a check that must succeed before this one is possible."""

    name: str
    look: Callable[[Subject], Verdict | Unseen]
    needs: str = ""


_MACHINE = (Check("disk", machine.disk), Check("memory", machine.memory), Check("GPU", machine.gpu))

CLIENT = (
    Check("name", reach.name),
    Check("port", reach.port, "name"),
    Check("TLS", reach.tls, "port"),
    Check("clock", joining.clock, "TLS"),
    Check("authentication", joining.authentication, "clock"),
    Check("versions", joining.versions, "authentication"),
    Check("partition", joining.partition, "authentication"),
    Check("data", machine.data),
    *_MACHINE,
)
SERVER = (
    Check("name", reach.name),
    Check("port", at_server.own_port),
    Check("certificates", at_server.certificates),
    *_MACHINE,
)


@dataclass(frozen=True)
class Finding:
    """The result of one check, and advice."""

    name: str
    status: Status
    text: str
    advice: str


@dataclass(frozen=True)
class Diagnosis:
    """All findings, in order. `unseen`: checks that were not possible, and why."""

    findings: tuple[Finding, ...]
    unseen: dict[str, str]

    @property
    def status(self) -> Status:
        """The worst status of all findings."""
        found = {finding.status for finding in self.findings}
        return "fail" if "fail" in found else "warn" if "warn" in found else "ok"


def examine(
    subject: Subject,
    checks: Sequence[Check],
    show: Callable[[Finding], None],
    looking: Callable[[str], AbstractContextManager[object]],
) -> Diagnosis:
    """Execute `checks`. `show` is called with each finding at once, `looking` is the context manager around each check.

    Raises:
        ConfigError: the server's address is invalid.
    """
    findings: list[Finding] = []
    unseen: dict[str, str] = {}
    causes: dict[str, str] = {}
    for check in checks:
        if cause := causes.get(check.needs):
            causes[check.name] = cause
            unseen[check.name] = f"{cause} failed"
            continue
        with looking(check.name):
            seen = check.look(subject)
        if isinstance(seen, Unseen):
            unseen[check.name] = seen.reason
            continue
        finding = Finding(check.name, seen.status, seen.text, seen.advice)
        findings.append(finding)
        show(finding)
        if finding.status == "fail":
            causes[check.name] = check.name
    return Diagnosis(tuple(findings), unseen)
