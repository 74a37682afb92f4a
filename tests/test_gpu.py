"""Every family of algorithms on a GPU: the numbers of the CPU. `make test-gpu` runs these, where there is a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.photos import photos
from torch import Tensor, nn

import fedlens
from fedlens.aggregation.base import rules
from fedlens.attacks.base import attacks
from fedlens.errors import RuntimeFailure
from fedlens.models.base import Preprocessing, Recognizer
from fedlens.personalization.base import personalizations
from fedlens.strategies.base import strategies
from fedlens.tracking.metrics import read_metrics
from fedlens.training.cuda_graphs import CudaGraphs, Play
from fedlens.training.device import repeatable
from fedlens.training.flat import FlatModel
from fedlens.training.settings import LocalSettings
from fedlens.training.static_steps import PATIENCE, StaticSteps

pytestmark = pytest.mark.gpu

QUICK = (
    "data.image_size=16",
    "data.partition.scheme=iid",
    "data.partition.clients=8",
    "federated.num_rounds=3",
    "federated.fraction_fit=1",
    "federated.batch_size=4",
    "optimizer.lr=0.05",
    "optimizer.momentum=0.5",
    "runtime.name=in_process",
    "tracking.tensorboard=false",
    "tracking.report=false",
)
SHORT_STEPS = {"qfedavg": ("strategy.q=0.1",), "fedadam": ("strategy.server_lr=0.01",)}
NEEDS = {"fedrep": ("personalization.head_epochs=1",), "fedbabu": ("personalization.tune_epochs=1",)}
TRANSFER = {
    "rates by depth": ("transfer.layer_decay=0.4",),
    "gradual unfreezing": ("transfer.unfreeze_every=1",),
    "the head first": ("transfer.probe_rounds=1",),
    "a frozen beginning": ("model.name=cnn", "model.freeze=2"),
    "AdamW that goes on": (
        "optimizer.name=adamw",
        "optimizer.momentum=0.9",
        "optimizer.lr=0.005",
        "optimizer.keep=true",
    ),
    "mixed images": ("optimizer.mixup=0.4", "data.augment=crop_flip", "optimizer.clip_norm=1"),
    "pieces of batches": ("memory.micro_batch=2", "optimizer.label_smoothing=0.1"),
    "clients together": ("runtime.vectorize=3", "strategy.name=scaffold", "optimizer.clip_norm=1"),
    "clients together, batches filled up": ("runtime.vectorize=8", "model.name=lenet", "federated.batch_size=5"),
    "two processes": ("runtime.name=local", "runtime.workers=2", "model.name=lenet"),
}
NO_STEPS = ("optimizer.lr=1e-12",)
SCHEDULES = {
    "fedasync": ("schedule.name=fedasync", "clock.name=half_normal", "schedule.concurrency=3"),
    "fedbuff": ("schedule.name=fedbuff", "clock.name=lognormal", "schedule.buffer_size=2", "schedule.concurrency=4"),
}


def small(norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> Recognizer:
    """Convolutions, BatchNorm, a head: every kind of tensor that travels, and nothing with a kink in it, where two
    devices would go different ways."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), norm(8), nn.Tanh(),
            nn.Conv2d(8, 8, 3, padding=1, bias=False), norm(8), nn.Tanh(),
            nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(),
        )  # fmt: skip
        return Recognizer(backbone, nn.Linear(32, 3), Preprocessing(16, 3))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos(tmp_path_factory.mktemp("photos"), each=60)


@pytest.fixture(autouse=True)
def whole_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TF32, which rounds a convolution's inputs to ten bits, in this process and in those that it starts."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU that PyTorch can use, or pytest without -m gpu, which hides it")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    torch.set_num_threads(1)  # as tests of the CPU have


def run(folder: Path, images: Path, device: str, *overrides: str, **given) -> fedlens.Run:
    place = (f"data.path={images}", f"tracking.dir={folder / device}", f"runtime.device={device}")
    return fedlens.run(None, *QUICK, *place, *overrides, show=False, **given)


def ours(overrides: tuple[str, ...]) -> dict[str, nn.Module]:
    """A model of this test, unless the configuration names one."""
    return {} if any(override.startswith("model.name") for override in overrides) else {"model": small()}


def assert_alike(here: Mapping[str, Tensor], there: Mapping[str, Tensor], first: Mapping[str, Tensor]) -> None:
    """`there` (a GPU) is `here` (the CPU), but for a thousandth of how far a tensor has come."""
    assert here.keys() == there.keys()
    moved = {name: float((value.double() - first[name].double()).abs().max()) for name, value in here.items()}
    assert max(moved.values()) > 1e-2, "nothing moved: the test shows nothing"
    for name, value in here.items():
        assert there[name].device.type == "cpu"
        off = float((value.double() - there[name].double()).abs().max())
        assert off <= 1e-3 * moved[name] + 1e-6, f"{name} moved by {moved[name]:.2g}, and is off by {off:.2g}"


def assert_same_on_both(folder: Path, images: Path, *overrides: str) -> tuple[fedlens.Run, fedlens.Run]:
    """The same run on both devices, with the same end."""
    cpu, gpu = (run(folder, images, device, *overrides, **ours(overrides)) for device in ("cpu", "cuda"))
    first = run(folder / "first", images, "cpu", *overrides, *NO_STEPS, **ours(overrides)).model
    assert_alike(cpu.model.state_dict(), gpu.model.state_dict(), first.state_dict())
    return cpu, gpu


@pytest.mark.parametrize("name", strategies.names())
def test_every_strategy(tmp_path: Path, images: Path, name: str) -> None:
    """Clients one after the other, with a CUDA graph and without, and clients together."""
    settings = (f"strategy.name={name}", *SHORT_STEPS.get(name, ()))
    cpu, first = (run(tmp_path, images, "cpu", *settings, *more, model=small()) for more in ((), NO_STEPS))
    for engine in ("runtime.graph=true", "runtime.graph=false", "runtime.vectorize=4"):
        gpu = run(tmp_path / engine, images, "cuda", *settings, engine, model=small())
        assert_alike(*(one.model.state_dict() for one in (cpu, gpu, first)))


@pytest.mark.parametrize("name", [name for name in personalizations.names() if name != "none"])
def test_every_personalisation(tmp_path: Path, images: Path, name: str) -> None:
    """What is shared, and what each client uses at home."""
    settings = (f"personalization.name={name}", *NEEDS.get(name, ()))
    if name == "local":  # nothing is shared, so nothing shared moves
        cpu, gpu = (run(tmp_path, images, device, *settings, model=small()) for device in ("cpu", "cuda"))
    else:
        cpu, gpu = assert_same_on_both(tmp_path, images, *settings)
    first = small().state_dict()
    for client in ("client1", "client8"):
        here, there = (one.model_of(client, model=small()).state_dict() for one in (cpu, gpu))
        assert_alike(here, there, first)


@pytest.mark.parametrize("name", rules.names())
def test_every_rule(tmp_path: Path, images: Path, name: str) -> None:
    assert_same_on_both(tmp_path, images, f"aggregation.name={name}")


@pytest.mark.parametrize("name", [name for name in attacks.names() if name != "none"])
def test_every_attack(tmp_path: Path, images: Path, name: str) -> None:
    assert_same_on_both(tmp_path, images, f"attack.name={name}", "attack.fraction=0.25")


@pytest.mark.parametrize("name", SCHEDULES)
def test_both_asynchronous_schedules(tmp_path: Path, images: Path, name: str) -> None:
    assert_same_on_both(tmp_path, images, *SCHEDULES[name])


@pytest.mark.parametrize("name", TRANSFER)
def test_what_training_may_be_asked(tmp_path: Path, images: Path, name: str) -> None:
    assert_same_on_both(tmp_path, images, *TRANSFER[name])


# -- CUDA graphs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Play]:
    """What is captured, in this process."""
    found: list[Play] = []
    capture = CudaGraphs.capture

    def noted(self: CudaGraphs, compute: Play) -> Play:
        found.append(capture(self, compute))
        return found[-1]

    monkeypatch.setattr(CudaGraphs, "capture", noted)
    return found


GRAPHS = {
    "BatchNorm": ((), nn.BatchNorm2d),
    "batches filled up": ((), partial(nn.GroupNorm, 2)),
    "clipped and smoothed": (("optimizer.clip_norm=0.5", "optimizer.label_smoothing=0.1"), partial(nn.GroupNorm, 2)),
    "AdamW": (TRANSFER["AdamW that goes on"], nn.BatchNorm2d),
    "rates by depth": (TRANSFER["rates by depth"], nn.BatchNorm2d),
    "ditto": (("personalization.name=ditto",), nn.BatchNorm2d),
    "images in main memory": (("data.augment=flip",), nn.BatchNorm2d),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_steps_of_a_graph_are_those_of_the_loop(
    tmp_path: Path, images: Path, name: str, captures: list[Play], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU; a graph is captured once for all clients. Clients have about 14 images, so their last batches are
    smaller than 8, and filled up without BatchNorm."""
    settings, norm = GRAPHS[name]
    settings = (*settings, "federated.batch_size=8")
    if name == "images in main memory":  # they are read in a thread while a step is captured
        monkeypatch.setattr("fedlens.training.client.resident", lambda data, _device: data)
    cpu, first = (run(tmp_path, images, "cpu", *settings, *more, model=small(norm)) for more in ((), NO_STEPS))
    assert not captures
    gpu = run(tmp_path, images, "cuda", *settings, "runtime.graph=true", model=small(norm))
    assert_alike(*(one.model.state_dict() for one in (cpu, gpu, first)))
    assert len(captures) in ((1,) if norm is nn.BatchNorm2d else (1, 2)), "of 24 clients; one more for batches of 4"


def static_steps(*layers: nn.Module) -> tuple[StaticSteps, FlatModel]:
    gpu = torch.device("cuda")
    model = FlatModel(nn.Sequential(nn.Flatten(), *layers, nn.Linear(64, 3)), gpu)
    return StaticSteps(model, LocalSettings(batch_size=8), pads=False, graphs=CudaGraphs(gpu, timed=False)), model


def gradients(steps: StaticSteps, model: FlatModel, count: int) -> list[Tensor]:
    """Of one batch, again and again, from one seed."""
    batch, found = (torch.ones(8, 1, 8, 8, device="cuda"), torch.zeros(8, dtype=torch.long, device="cuda")), []
    with repeatable(3, model.device):
        for _ in range(count):
            model.train()
            assert steps(*batch) is not None
            found.append(model.gradient.clone())
    return found


def test_dropout_of_clients_together_is_that_of_the_loop(tmp_path: Path, images: Path) -> None:
    def dropping() -> Recognizer:
        model = small()
        model.backbone.insert(3, nn.Dropout(0.3))  # maps, then features
        model.backbone.append(nn.Dropout(0.3))
        return model

    alone, first, together = (
        run(tmp_path / str(number), images, "cuda", *more, model=dropping())
        for number, more in enumerate(((), NO_STEPS, ("runtime.vectorize=4",)))
    )
    assert_alike(*(one.model.state_dict() for one in (alone, together, first)))


def test_draws_of_a_graph_are_those_of_the_loop_and_differ_from_step_to_step(captures: list[Play]) -> None:
    steps, model = static_steps(nn.Dropout(0.5))
    computed = gradients(steps, model, PATIENCE)
    assert not captures
    replayed, again = (gradients(steps, model, PATIENCE) for _ in range(2))
    assert len(captures) == 1
    assert next(iter(steps._steps.values())).play is captures[0]
    for one, other, third in zip(computed, replayed, again, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
        assert torch.equal(other, third)
    assert not torch.allclose(replayed[0], replayed[1], atol=1e-3)


class Looking(nn.Module):
    """Decides by a number of the batch what it computes."""

    def forward(self, values: Tensor) -> Tensor:
        return values * 2 if float(values.detach().sum()) > 0 else values


class Choosing(nn.Module):
    """Draws on the processor, which a graph would not do again."""

    def forward(self, values: Tensor) -> Tensor:
        return values if torch.rand(()) < 0.5 else 2 * values


@pytest.mark.parametrize("layer", [Looking(), Choosing()], ids=["looking", "choosing"])
def test_what_cannot_be_captured_is_computed_and_draws_go_on(layer: nn.Module, captures: list[Play]) -> None:
    steps, model = static_steps(layer, nn.Dropout(0.5))
    before, after = (gradients(steps, model, PATIENCE + 2) for _ in range(2))
    assert not captures
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert not torch.equal(before[-2], before[-1])


REPEATED = [
    *((model, "fp32") for model in ("small", "lenet", "resnet18", "mobilenetv3", "vit")),
    *((model, precision) for model in ("resnet18", "vit") for precision in ("bf16", "fp16")),
]


@pytest.mark.parametrize(("model", "precision"), REPEATED)
def test_a_repeat_and_a_resume_are_the_same_to_the_bit(
    tmp_path: Path, images: Path, model: str, precision: str
) -> None:
    settings = () if model == "small" else (f"model.name={model}", "data.image_size=32", "optimizer.lr=0.01")
    settings = (*settings, *(["model.variant=tiny"] if model == "vit" else []))
    settings = (*settings, f"memory.precision={precision}", "optimizer.keep=true")
    once, again = (run(tmp_path / str(time), images, "cuda", *settings, **ours(settings)) for time in range(2))
    short = run(tmp_path / "short", images, "cuda", *settings, "federated.num_rounds=1", **ours(settings))
    longer = fedlens.resume(short.folder, "federated.num_rounds=3", show=False, **ours(settings))
    first, *others = ((one.folder / "model" / "model.safetensors").read_bytes() for one in (once, again, longer))
    assert [other == first for other in others] == [True, True]
    losses = [line["train_loss"] for line in read_metrics(once.folder / "metrics.jsonl")]
    assert len({*losses}) == 3
    assert max(losses) < 10


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.name=vit", "data.image_size=224", "model.lora.rank=4", "memory.precision=bf16"),
        ("model.name=resnet50", "data.image_size=64", "memory.precision=fp16", "memory.gradient_checkpointing=true"),
        ("model.name=efficientnet_lite0", "model.pretrained=true", "model.freeze=backbone", "data.image_size=96"),
        ("model.name=mobilenetv3", "data.image_size=64", "model.norm=group", "memory.channels_last=false"),
    ],
    ids=lambda overrides: overrides[0],
)
def test_networks_of_real_size_learn(tmp_path: Path, images: Path, overrides: tuple[str, ...]) -> None:
    done = run(
        tmp_path,
        images,
        "cuda",
        *overrides,
        "optimizer.lr=0.003",
        "federated.num_rounds=5",
        "tracking.tensorboard=true",
    )
    losses = done.metrics["train_loss"]
    assert losses.iloc[-1] < losses.iloc[0]
    assert json.loads((done.folder / "versions.json").read_text())["device"].startswith("cuda")


def test_a_full_gpu_is_one_line_and_the_run_goes_on_with_less(tmp_path: Path, images: Path) -> None:
    settings = ("model.name=resnet50", "data.image_size=128", "federated.batch_size=64", "federated.num_rounds=1")
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 1.2e9) / total)
    try:
        with pytest.raises(RuntimeFailure, match=r"the GPU's memory is full, .*iB more were wanted"):
            run(tmp_path, images, "cuda", *settings, "data.partition.clients=2")
        (folder,) = (tmp_path / "cuda").iterdir()
        torch.cuda.empty_cache()
        done = fedlens.resume(folder, "memory.micro_batch=2", "memory.precision=bf16", show=False)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert list(done.metrics.index) == [1]


def test_the_command_line(tmp_path: Path, images: Path) -> None:
    """A run on whatever is there, which is a GPU; a picture named by its model, and by a client's own; the doctor."""

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from fedlens.cli.main import main; main()", *words]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)

    place = (f"data.path={images}", f"tracking.dir={tmp_path}")
    done = call("run", *QUICK, *place, "model.name=lenet", "data.image_size=28", "personalization.name=ditto")
    assert done.returncode == 0, done.stderr
    assert "device    cuda" in done.stdout
    (folder,) = tmp_path.iterdir()
    picture = str(next(images.glob("cup/*")))
    for words in ([], ["--client", "client1"]):
        named = call("predict", str(folder), picture, *words)
        assert named.returncode == 0, named.stderr
        assert "cup" in named.stdout
    assert "NVIDIA" in call("doctor").stdout
