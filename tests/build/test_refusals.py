"""What a configuration asks for, and the data, the model, the clients or the machine cannot give: said before a run
folder is made."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.photos import photos
from tests.problems import refuses, refuses_with

import fedlens
from fedlens.build.load import load
from fedlens.errors import Code, DataError, NotEnoughClients
from fedlens.flower.serve import check_serving, check_weights
from fedlens.tracking.run_dir import find_runs

QUICK = ("model.name=lenet", "federated.num_rounds=1", "runtime.name=in_process", "tracking.tensorboard=false")


@pytest.mark.parametrize(
    ("code", "overrides", "line"),
    [
        # the model
        ("incompatible", "model.freeze=5", "model.freeze = 5: the backbone has 4 stages: use 1 to 4"),
        ("incompatible", "model.num_classes=7", "model.num_classes=7, but the data has 10 labels: use model.num_cla"),
        ("incompatible", "model.norm=group", "model.norm = 'group': the model has no BatchNorm to replace"),
        (
            "incompatible",
            "memory.gradient_checkpointing=true",
            "memory.gradient_checkpointing = true: model lenet has no blocks to compute again; leave it out",
        ),
        ("incompatible", "personalization.name=fedbn", "personalization.name = 'fedbn': this model has no norm"),
        ("incompatible", "personalization.name=fedper personalization.head=x.", "personalization.head = 'x.': no name"),
        ("incompatible", "strategy.name=moon model.freeze=backbone", "strategy.name = 'moon': "),
        ("incompatible", "strategy.name=moon personalization.name=lgfedavg", "strategy.name = 'moon': "),
        ("unavailable", "memory.precision=fp16", "memory.precision='fp16' needs a GPU, and this run is on the CPU"),
        # the clients
        ("incompatible", "federated.quorum=11", "federated.quorum = 11: a round has only 10 clients; use at most 10"),
        (
            "incompatible",
            "schedule.name=fedbuff schedule.concurrency=11",
            "schedule.concurrency = 11: the data has 10 clients, which do one task at a time; use at most 10",
        ),
        (
            "contradiction",
            "schedule.name=fedbuff schedule.buffer_size=11",
            "schedule.buffer_size = 11: only 10 clients work at a time; use at most 10",
        ),
        ("incompatible", "aggregation.name=krum aggregation.f=4", "aggregation.f = 4: krum needs 2 f + 3 = 11"),
        ("incompatible", "aggregation.name=bulyan federated.fraction_fit=0.5", "aggregation.f = 1: bulyan needs 4 f"),
        ("incompatible", "attack.name=label_flip attack.fraction=0.09", "attack.fraction = 0.09: of 10 clients that"),
        # the data
        ("incompatible", "attack.name=backdoor attack.target=10", "attack.target = 10: the data has 10 classes"),
        ("incompatible", "attack.name=scale attack.patch=28", "attack.patch = 28: the images have 28 pixels"),
        ("idle_key", "data.partition.clients=4", "data.partition.clients = 4: the data has clients of its own"),
        ("idle_key", "data.partition.seed=4", "data.partition.seed = 4: the data has clients of its own"),
        ("idle_key", "data.test=0.3", "data.test = 0.3: the data brings test images of its own"),
        ("idle_key", "data.validation=0 stopping.patience=2", "stopping.patience = 2: no client has validation images"),
    ],
)
def test_what_the_sample_and_a_small_network_cannot_do(tmp_path: Path, code: Code, overrides: str, line: str) -> None:
    with refuses_with(code, line):
        fedlens.run(None, *QUICK, f"tracking.dir={tmp_path}", *overrides.split(), show=False)
    assert not list(tmp_path.iterdir())


def test_validation_images_that_the_data_brings(tmp_path: Path) -> None:
    for split in ("train", "val"):
        photos(tmp_path / "photos" / split)
    overrides = (*QUICK, f"data.path={tmp_path / 'photos'}", "data.validation=0.3", f"tracking.dir={tmp_path / 'logs'}")
    with refuses(("idle_key", "data.validation")) as caught:
        fedlens.run(None, *overrides, show=False)
    assert "the data brings validation images of its own" in str(caught.value)


def test_more_clients_asked_for_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(NotEnoughClients, match=r"federated\.min_fit_clients=30, but the data has 10 client"):
        fedlens.run(None, *QUICK, f"tracking.dir={tmp_path}", "federated.min_fit_clients=30", show=False)
    assert not list(tmp_path.iterdir())


def test_a_trace_that_lacks_clients(tmp_path: Path) -> None:
    trace = tmp_path / "times.csv"
    trace.write_text("client,seconds\nclient1,2\n")
    clock = (f"clock.path={trace}", "clock.name=trace", f"tracking.dir={tmp_path / 'logs'}")
    with pytest.raises(DataError, match=r"clock.path: .*times.csv has no line for .* and 9 other client\(s\)"):
        fedlens.run(None, *QUICK, *clock, show=False)
    assert not find_runs(tmp_path / "logs")


@pytest.mark.parametrize(
    ("code", "overrides", "line"),
    [
        ("idle_key", "attack.name=alie", "attack.name = 'alie': attacks are for simulations (`fedlens run`)"),
        ("unavailable", "runtime.device=cuda:99", "runtime.device='cuda:99' "),
        ("idle_key", "clock.name=half_normal", "clock.name = 'half_normal': sites take the time that they take"),
        ("incompatible", "aggregation.name=krum", "aggregation.f = 1: krum needs 2 f + 3 = 5"),
    ],
)
def test_what_real_sites_cannot_do(code: Code, overrides: str, line: str) -> None:
    with refuses_with(code, line):
        check_serving(load(None, overrides.split(), use="server"))


def test_weights_that_sites_do_not_have() -> None:
    dual = "model.name=dual_encoder"
    for frozen in (
        ["model.freeze=1"],
        ["model.lora.rank=2"],
        [dual, "model.lock_text=true"],
        [dual, "model.tune=prompt"],
    ):
        with refuses(("contradiction", "model.weights")):
            check_weights(load(None, ["model.weights=a.pth", *frozen]))
    check_weights(load(None, ["model.weights=a.pth", dual]))
    check_weights(load(None, ["model.weights=a.pth"]))
