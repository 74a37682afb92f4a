"""The published quick start, word for word, with the weights from a server on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from tests.commands import command
from tests.photos import photos

import fedlens
from fedlens.models.weights import TorchvisionWeights
from fedlens.tracking.run_dir import find_runs

PUBLISHED = """\
model:
  name: mobilenetv3
  pretrained: True
  num_classes: 1000
federated:
  num_rounds: 20
  fraction_fit: 0.8
  min_fit_clients: 3
  local_epochs: 2
  batch_size: 32
"""

SMALL = "data.path=data data.image_size=32 federated.num_rounds=1 tracking.tensorboard=false tracking.report=false"
"""Three clients of 12 photographs, one round."""

NOWHERE = "http://127.0.0.1:9"
"""The port of the discard service, which nobody runs: refused at once."""


class Server:
    """A folder of weights on 127.0.0.1 that remembers what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *_) -> None:
                asked.append(self.path)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()
        self.address = f"http://127.0.0.1:{self._http.server_port}"

    def stop(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture(autouse=True)
def a_new_machine(tmp_path, monkeypatch) -> None:
    """The quick start's file, photographs of three clients, and no weights yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("FEDLENS_WEIGHTS_MIRROR", NOWHERE)
    Path("config.yaml").write_text(PUBLISHED)
    for client in ("client1", "client2", "client3"):
        photos(Path("data", client), each=4)


@pytest.fixture
def published(tmp_path) -> tuple[Path, torch.nn.Module]:
    """torchvision's MobileNetV3-small with numbers of our own, saved as torchvision does: the start of the SHA-256 in
    the file's name."""
    from torchvision.models import mobilenet_v3_small

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        network = mobilenet_v3_small().eval()
    file = tmp_path / "served" / "new.pth"
    file.parent.mkdir()
    torch.save(network.state_dict(), file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return file.rename(file.with_name(f"mobilenet_v3_small-{digest[:8]}.pth")), network


@pytest.fixture
def server(published, monkeypatch) -> Iterator[Server]:
    file, _ = published
    server = Server(file.parent)
    monkeypatch.delenv("FEDLENS_WEIGHTS_MIRROR")
    monkeypatch.setattr(TorchvisionWeights, "url", property(lambda self: f"{server.address}/{file.name}"))
    yield server
    server.stop()


def test_the_published_file_runs_by_download_and_then_from_the_cache(published, server) -> None:
    file, network = published
    line = f"run config.yaml {SMALL} optimizer.lr=1e-9"
    result = command(line)
    assert result.exit_code == 0, result.output
    assert "note: model.num_classes=1000, the data has 3 labels: the other outputs stay unused" in result.stdout
    assert "test accuracy" in result.stdout
    assert server.asked == [f"/{file.name}"]
    assert [path.name for path in Path("torch/hub/checkpoints").iterdir()] == [file.name]

    server.stop()
    result = command(line)
    assert result.exit_code == 0, result.output
    assert len(server.asked) == 1

    by_download, from_cache = (fedlens.load_run(run.path) for run in find_runs(Path("logs")))
    config = by_download.config
    assert (config.federated.fraction_fit, config.federated.min_fit_clients) == (0.8, 3)
    assert (config.federated.local_epochs, config.federated.batch_size) == (2, 32)
    assert by_download.metrics["cohort"].iloc[0][0]["weight"] > 0
    first, second = by_download.model, from_cache.model
    assert first.head.weight.shape == (1000, 1024)
    # the step is too small to be seen: what was trained is still what the server gave
    assert torch.allclose(first.head.weight, network.classifier[3].weight, atol=1e-6)
    assert torch.allclose(first.backbone.features[0][0].weight, network.features[0][0].weight, atol=1e-6)
    for (name, one), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_without_network_and_cache_the_error_names_the_ways_out() -> None:
    result = command(f"run config.yaml {SMALL}")
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    wanted, ways = result.stderr.splitlines()
    assert "the published weights of mobilenetv3 variant=small (mobilenet_v3_small-" in wanted
    assert "are not on this machine" in wanted
    for way in (
        "fedlens models fetch mobilenetv3 variant=small --to FOLDER",
        "model.weights=FILE",
        "model.name=efficientnet_lite0",
    ):
        assert way in ways


def test_a_file_of_ones_own_is_a_way_out(published) -> None:
    file, network = published
    result = command(f"run config.yaml {SMALL} model.weights={file} optimizer.lr=1e-9")
    assert result.exit_code == 0, result.output
    (run,) = find_runs(Path("logs"))
    assert torch.allclose(fedlens.load_run(run.path).model.head.weight, network.classifier[3].weight, atol=1e-6)


def test_short_flags_go_before_the_file() -> None:
    result = command(
        f"run config.yaml --model lenet --num_rounds 2 --fraction_fit 0.5 --min_fit_clients 1 {SMALL} "
        "model.pretrained=false federated.num_rounds=7"
    )
    assert result.exit_code == 0, result.output
    (run,) = find_runs(Path("logs"))
    done = fedlens.load_run(run.path)
    assert done.config.model.name == "lenet"
    assert done.config.model.num_classes == 1000  # the file's own
    assert [len(cohort) for cohort in done.metrics["cohort"]] == [1, 1]  # max(⌊3 × 0.5⌋, 1) clients in 2 rounds
