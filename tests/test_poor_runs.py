"""A first run on photographs that learns nothing says so, and what to try."""

from __future__ import annotations

from tests.photos import photos
from typer.testing import CliRunner

from fedlens.cli.main import app

QUICK = (
    *("run", "data.path=data", "data.partition.scheme=iid", "data.partition.clients=4", "data.image_size=16"),
    *("model.name=lenet", "federated.num_rounds=1", "optimizer.lr=1e-9", "runtime.name=in_process"),
    *("tracking.tensorboard=false", "tracking.report=false"),
)


def test_photographs_that_end_at_chance_are_told_what_to_try(tmp_path, monkeypatch) -> None:
    """200 photographs in four classes, and a learning rate at which nothing is learnt."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("cup", "fork", "plate", "spoon")):
        photos(tmp_path / "data", each=50, classes=(name,), seed=100 * number)
    result = CliRunner().invoke(app, QUICK)
    assert result.exit_code == 0, result.output
    output = " ".join(result.output.split())
    assert "naming one class without learning" in output
    assert "model.name=efficientnet_lite0 model.pretrained=true model.freeze=backbone" in output
    assert "note: validation has only" in output
    assert "or a larger data.validation (now 0.1)" in output
