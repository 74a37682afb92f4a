"""A federated run of OpenCLIP's small network, resumed and asked."""

from __future__ import annotations

from pathlib import Path

import torch
from tests.test_multimodal import predicted, table  # noqa: F401

import fedlens
from fedlens.models.dual_encoder import DualEncoder
from fedlens.tracking.metrics import read_metrics

SETTINGS = (
    "model.name=open_clip",
    "data.image_size=20",
    "data.test=0.25",
    "federated.batch_size=8",
    "optimizer.name=adamw",
    "optimizer.lr=0.001",
    "runtime.workers=1",
    "tracking.tensorboard=false",
    "tracking.pictures=false",
)


def test_it_trains_resumes_and_predicts(table: Path, tmp_path: Path) -> None:  # noqa: F811
    places = (f"data.path={table}", f"data.cache_dir={tmp_path / 'cache'}", f"tracking.dir={tmp_path}")
    short = fedlens.run(None, *SETTINGS, *places, "federated.num_rounds=1", show=False)
    run = fedlens.resume(short.folder, "federated.num_rounds=2", show=False)
    assert isinstance(run.model, DualEncoder)
    first, second = read_metrics(run.folder / "metrics.jsonl")
    assert not first["failures"]
    assert second["measures"]["modality/text_only"] > 0.5
    for name, value in short.model.state_dict().items():
        assert not torch.equal(value, run.model.state_dict()[name]), name
    found = predicted(str(run.folder), "--text", "steel prongs dinner")
    assert max(found, key=lambda name: found[name]) == "fork"
