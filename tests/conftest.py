"""For every test: the same chance, a cache of its own, and in CI no skip that nobody wrote down."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

from fedlens.export.quiet import count_devices

# pytest-xdist's workers ignore Ctrl-C, and what they start would inherit that; tests send it to what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """What is tested is the CPU's, to the bit, also where there is a GPU; but for the tests of the GPU, `-m gpu`.
    PyTorch gets one thread, here and in what tests start: the models are tiny and the tests run side by side, so more
    threads would only wait for each other."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
        count_devices()


LONGEST = ("test_same_models.py", "test_ray.py", "test_kills.py", "test_security.py", "test_processes.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes begins first, so that no worker is left alone with it at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


# `make test` tries the same few inputs every time, so that it cannot fail by chance; `make test-full` tries new ones.
hypothesis.settings.register_profile("quick", max_examples=50, deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("full", max_examples=5_000, deadline=None, print_blob=True)
hypothesis.settings.load_profile("quick")

ALLOWED_SKIPS = Path(__file__).with_name("skips.txt")


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decoded images and features go to a folder of this session, not to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLENS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def nothing_is_sent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trackers know neither the servers nor the logins of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_API_KEY", "WANDB_PROJECT", "WANDB_DIR"):
            patch.delenv(name, raising=False)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_X_DISABLE_STATS", "true")
        patch.setenv("NETRC", str(tmp_path_factory.mktemp("home") / "netrc"))
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        yield


@pytest.fixture(autouse=True)
def same_torch() -> Iterator[None]:
    """First weights of a module that a test makes by itself, and `torch.rand`, are the same every time; and a site in
    this process may set a number of threads of its own."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def place(tmp_path: Path) -> Any:
    """A site (`sites.Place`)."""
    from tests.sites import Place

    return Place(tmp_path)


def unlisted_skips(session: pytest.Session) -> list[str]:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    allowed = {line for line in ALLOWED_SKIPS.read_text().splitlines() if line and not line.startswith("#")}
    skipped = reporter.stats.get("skipped", []) if reporter else []
    return [report.nodeid for report in skipped if report.nodeid not in allowed]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A skip in CI that tests/skips.txt does not list fails the run: it would hide that something is not tested."""
    found = unlisted_skips(session) if os.environ.get("CI") else []
    if found:
        print("\nskipped, but not listed in tests/skips.txt:", *found, sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
