"""Files of the repository that have to agree with each other."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
VERSION = PROJECT["project"]["version"]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
GITHUB = ROOT / ".github"
FORMS = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))
CONDA_FORGE = {"torch": "pytorch", "opencv-python-headless": "py-opencv", "matplotlib": "matplotlib-base"}
"""Names on PyPI → names on conda-forge, where they differ."""


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def name(requirement: str) -> str:
    """flwr>=1.38,<1.39 → flwr."""
    return re.split(r"[<>=!~\[ ;]", requirement)[0]


def test_conda_asks_for_what_pip_asks_for() -> None:
    """Every dependency once, with the bounds of pyproject.toml; and torch, OpenCV and pyarrow from conda-forge."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, *own, from_pip = environment["dependencies"]
    assert (python, pip) == (f"python{PROJECT['project']['requires-python']}", "pip")
    assert from_pip["pip"].pop() == "--editable ."
    asked = {name(line): line.removeprefix(name(line)) for line in PROJECT["project"]["dependencies"]}
    pure = {name(line): line.removeprefix(name(line)) for line in from_pip["pip"]}
    compiled = {name(line): line.removeprefix(name(line)) for line in own}
    assert {"pytorch", "torchvision", "py-opencv", "pyarrow"} <= set(compiled)
    here = {there: here for here, there in CONDA_FORGE.items()}
    assert not set(pure) & {here.get(there, there) for there in compiled}
    assert pure | {here.get(there, there): bounds for there, bounds in compiled.items()} == asked


def test_constraints_are_versions_and_nothing_else() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[\w.+!]+( ; .+)?", line)] == []
    assert not any("://" in line or "@" in line for line in lines)


def test_every_dependency_is_pinned() -> None:
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()}
    extras = PROJECT["project"]["optional-dependencies"].values()
    asked = [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in extra)]
    names = {name(line).lower().replace("_", "-") for line in asked}
    assert names <= pinned


def test_ci_runs_what_a_developer_runs() -> None:
    script = ROOT / ".ci" / "run"
    assert re.findall(r"^make .+$", script.read_text(encoding="utf-8"), re.MULTILINE) == ["make test", "make test-slow"]
    assert script.stat().st_mode & 0o111


def test_the_makefile_has_the_targets_that_the_pages_name() -> None:
    pages = ("README.md", "CONTRIBUTING.md", "docs/testing.md", ".github/PULL_REQUEST_TEMPLATE.md")
    for page in pages:
        assert set(re.findall(r"`make ([a-z-]+)", read(page))) <= TARGETS, page


def test_every_file_names_the_same_version() -> None:
    (date,) = re.findall(rf"^## \[{re.escape(VERSION)}\] - (\d{{4}}-\d\d-\d\d)$", read("CHANGELOG.md"), re.MULTILINE)
    citation = yaml.safe_load(read("CITATION.cff"))
    assert (citation["version"], str(citation["date-released"])) == (VERSION, date)
    assert f"| {VERSION.rpartition('.')[0]} (the newest) | yes |" in read("SECURITY.md")


def test_the_citation_has_what_its_format_asks_for() -> None:
    """https://github.com/citation-file-format/citation-file-format, schema 1.2.0: required keys, and our licence."""
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["license"] == PROJECT["project"]["license"]


def test_ci_elsewhere_runs_the_same_targets_on_every_python_that_is_promised() -> None:
    workflow = yaml.safe_load(read(".github/workflows/ci.yml"))
    assert workflow["permissions"] == {"contents": "read"}
    jobs = workflow["jobs"].values()
    commands = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    assert commands == ["make test", "make test-slow", "make dist"]
    assert {command.removeprefix("make ") for command in commands} <= TARGETS
    promised = re.findall(r"Python :: (3\.\d+)$", "\n".join(PROJECT["project"]["classifiers"]), re.MULTILINE)
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == promised
    assert PROJECT["project"]["requires-python"] == f">={promised[0]}"


def test_the_container_for_development_is_set_up_as_a_clone_is() -> None:
    container = json.loads(read(".devcontainer/devcontainer.json"))
    make, target, _ = container["postCreateCommand"].split()
    assert make == "make"
    assert target in TARGETS
    assert container["image"].removeprefix("python:").startswith(PROJECT["project"]["requires-python"].strip(">="))


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_a_form_for_issues_is_one_that_github_takes(form: Path) -> None:
    """https://docs.github.com/en/communities/using-templates-to-encourage-useful-issues-and-pull-requests"""
    told = yaml.safe_load(form.read_text(encoding="utf-8"))
    if form.stem == "config":
        assert set(told) <= {"blank_issues_enabled", "contact_links"}
        return
    assert {"name", "description", "body"} <= set(told)
    fields = [field for field in told["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in fields} <= {"textarea", "input", "dropdown", "checkboxes"}
    ids = [field["id"] for field in fields]
    assert len(set(ids)) == len(ids)
    assert all(field["attributes"]["label"] for field in fields)


FOR_NEWCOMERS = [ROOT / "SECURITY.md", ROOT / "CODE_OF_CONDUCT.md", GITHUB / "PULL_REQUEST_TEMPLATE.md", *FORMS]


@pytest.mark.parametrize("page", FOR_NEWCOMERS, ids=lambda path: path.stem)
def test_a_page_for_newcomers_names_files_that_there_are_and_no_mail_address(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:docs/)?[\w.-]+\.(?:md|txt))`", text) + re.findall(r"\]\((?!http)([^)#]+)\)", text)
    assert [file for file in named if not (ROOT / file).exists()] == []
    assert not re.search(r"\w@\w", text), "nobody reads that mail"


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "src" / "fedlens" / "py.typed").read_bytes() == b""
    assert "Typing :: Typed" in PROJECT["project"]["classifiers"]
