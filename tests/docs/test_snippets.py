"""What the pages print is what works."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tests.docs.snippets import ROOT, RUN, SHOWN, Block, blocks, fences, foreign, pages
from typer.testing import CliRunner

import fedlens
from fedlens import api
from fedlens.build import experiment
from fedlens.build.load import load
from fedlens.cli.main import app
from fedlens.cli.sweep import base_of
from fedlens.config.blocks import FAMILIES
from fedlens.config.schema import Config
from fedlens.config.site import load_site
from fedlens.data.types import FederatedData
from fedlens.sweeps.points import from_file, points
from fedlens.training.tasks.base import task_kinds

FEW = {"federated": {"num_rounds": 1, "fraction_fit": 0.01, "min_fit_clients": 2}}
"""What every run of these tests is cut down to, after its configuration has been checked as it is printed."""

TINY = {"runtime": {"name": "in_process"}, "tracking": {"tensorboard": False, "report": False}}
"""And what those of the quick tests are, which also take LeNet in place of the model."""


def few(config: Config) -> Config:
    """`config` for one round of two clients."""
    small = config.model_dump(mode="json")
    for section, values in FEW.items():
        small[section] |= values
    if config.privacy.mode != "none":  # a cohort of one client on average is refused
        small["federated"]["fraction_fit"] = 0.3
    return load(None, (), small)


def tiny(config: Config) -> Config:
    """As `few`, in this process and with LeNet, which is in the models of images and texts, too."""
    small = few(config).model_dump(mode="json")
    for section, values in TINY.items():
        small[section] |= values
    if config.model.name not in ("fusion", "dual_encoder"):
        small["model"] = {"name": "lenet", "num_classes": config.model.num_classes}
    return load(None, (), small)


def cut_down(monkeypatch: pytest.MonkeyPatch, how: Callable[[Config], Config]) -> None:
    """Runs that the pages start go through `how` once their configuration is complete."""
    run = api.run

    def less(config: Any = None, *overrides: str, **given: Any) -> api.Run:
        return run(how(api.resolve(config, overrides)), **given)

    monkeypatch.setattr(api, "run", less)
    monkeypatch.setattr(fedlens, "run", less, raising=False)


@pytest.fixture(scope="module", autouse=True)
def few_images() -> Iterator[None]:
    """Runs train and test on the first images of every client and of the test set, and take the code's whole way."""
    build = experiment.build_data

    def fewer(*arguments: Any, **how: Any) -> FederatedData:
        data = build(*arguments, **how)
        clients = tuple(
            replace(one, train=one.train[:40], val=one.val[:10], test=one.test[:10]) for one in data.clients
        )
        return replace(data, clients=clients, test=data.test[:40])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "build_data", fewer)
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader of the pages has in the folder, and a finished run in logs/."""
    folder = tmp_path_factory.mktemp("world")
    shutil.copy(ROOT / "config.yaml", folder)
    rng = np.random.default_rng(0)
    for number, name in enumerate(("book", "cup", "lamp", "plant", "shoe")):
        (folder / "PHOTOS" / name).mkdir(parents=True)
        for index in range(120):
            image = rng.integers(0, 90, (24, 32, 3), dtype=np.uint8)
            image[:, 6 * number : 6 * number + 6] += 120
            cv2.imwrite(str(folder / "PHOTOS" / name / f"{index:03}.jpg"), image)
    shutil.copy(folder / "PHOTOS" / "cup" / "000.jpg", folder / "photo.jpg")
    config = tiny(load(folder / "config.yaml", ["tracking.name=first", f"tracking.dir={folder / 'logs'}"]))
    api.run(config, show=False)
    return folder


@pytest.fixture
def here(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the world as the current folder; what plugins register is forgotten afterwards."""
    shutil.copytree(world, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("PHOTOS"))
    (tmp_path / "PHOTOS").symlink_to(world / "PHOTOS")
    monkeypatch.chdir(tmp_path)
    for registry in (*(family.registry for family in FAMILIES.values()), task_kinds):
        registry.names()
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("fedlens_plugin_"):
            del sys.modules[name]


def perform(block: Block) -> None:
    """Do what the block's language and title ask for."""
    body = block.body.replace("<run>", next(Path("logs").glob("first-*")).name)
    if block.title:
        Path(block.title).write_text(body, encoding="utf-8")
    if block.language == "yaml":
        file = Path(block.title or "printed.yaml")
        file.write_text(body, encoding="utf-8")
        if block.title == "site.yaml":
            load_site(file, [])
        elif block.title == "sweep.yaml":
            assert points(base_of(None, file), [], from_file(file), "sweep")
        else:
            load(file)
    elif block.language == "python" and not block.title:
        exec(compile(body, str(block), "exec"), {"__name__": "__main__"})
    elif block.language == "bash":
        for command in Block(**{**vars(block), "body": body}).commands:
            result = CliRunner().invoke(app, command[1:], catch_exceptions=False)
            assert result.exit_code == 0, f"{block}: {command}\n{result.output}"


def run_page(page: Path, *, slow: bool) -> None:
    for block in blocks(page):
        if block.runs and (slow or block.mark != "slow"):
            perform(block)


BY_PAGE = pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))


@BY_PAGE
def test_what_a_page_prints_runs(page: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_down(monkeypatch, tiny)
    run_page(page, slow=False)


def with_own_models() -> list[Any]:
    """Every page. Those without a slow block take minutes for what the test above does with small models: `full`."""
    needed_by = {
        page: page.name == "README.md" or any(block.mark == "slow" for block in blocks(page)) for page in pages()
    }
    return [
        pytest.param(page, id=str(page.relative_to(ROOT)), marks=pytest.mark.slow if needed else pytest.mark.full)
        for page, needed in needed_by.items()
    ]


@pytest.mark.timeout(1200)  # whole experiments, on a machine that does others beside them
@pytest.mark.parametrize("page", with_own_models())
def test_what_a_page_prints_runs_with_its_own_models(page: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_down(monkeypatch, few)
    run_page(page, slow=True)


def test_every_block_says_what_it_is() -> None:
    for page in pages():
        found = blocks(page)
        assert fences(page) == 2 * len(found), f"{page}: a fence that snippets.py does not understand"
        for block in found:
            assert block.language in (*RUN, *SHOWN), f"{block}: a block is one of {RUN + SHOWN}"
            if block.language == "bash" and block.runs:
                assert not foreign(block.commands), f"{block}: mark it `<!-- not run: reason -->`"


def test_the_readme_prints_the_quick_start() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for line in (
        "make demo",
        "make test",
        "fedlens run config.yaml model.name=resnet50 federated.num_rounds=3 strategy.name=fedprox",
        "fedlens data show ./data",
        "fedlens run data.path=./data",
        "python server.py --model resnet50 --num_rounds 10 --fraction_fit 0.5 --min_fit_clients 2",
        "python client.py --data_dir ./data/client1 --partition_id 0 --server_address 0.0.0.0:8080",
        "python client.py --data_dir ./data/client2 --partition_id 1 --server_address 0.0.0.0:8080",
        "fedlens predict efficientnet_lite0 photo.jpg",
        "tensorboard --logdir ./logs",
    ):
        assert line in readme
