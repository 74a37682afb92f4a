"""MLflow and Weights & Biases: what they have of real runs, read back with their own libraries; without any network."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests import runs, wandb_files
from tests.problems import refuses

import fedlens
from fedlens.core.records import RoundRecord
from fedlens.tracking import writers
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.observer import Silent
from fedlens.tracking.scalars import scalars_of

BOTH = ("tracking.mlflow=true", "tracking.wandb=true")
SETTINGS = (*BOTH, "tracking.report=true", "runtime.name=in_process", "data.partition.clients=3")


class Broken(RuntimeError):
    pass


class BreaksAfter:
    """A tracker that ends the run when a round is told everywhere and its checkpoint is not written yet."""

    def __init__(self, number: int) -> None:
        self._number = number

    def round(self, record: RoundRecord) -> None:
        if record.round == self._number:
            raise Broken

    def close(self) -> None: ...


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def given() -> dict[str, Any]:
    return {"data": runs.separable(90), "test": runs.separable(30, seed=1), "model": runs.Clothes()}


def start(base: Path, *overrides: str, **more: Any) -> fedlens.Run:
    return runs.run(base, *SETTINGS, *overrides, **given(), **more)


def mlflow_run(base: Path, name: str) -> tuple[Any, Any]:
    """MLflow's client, and its only run that has the name of a folder."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{base / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("fedlens")
    (found,) = (run for run in client.search_runs([experiment.experiment_id]) if run.info.run_name == name)
    return client, found


def mlflow_curve(client: Any, run: Any, tag: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, tag))


def wandb_folder(run: Path) -> Path:
    """The one folder that has all of the run."""
    name = json.loads((run / "wandb.json").read_text())["run_id"]
    (folder,) = run.parent.glob(f"wandb/offline-run-*-{name}*")
    return folder


def wandb_curve(run: Path, tag: str) -> list[tuple[int, float]]:
    return [(row["round"], row[tag]) for row in wandb_files.history(wandb_folder(run)) if tag in row]


def told(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What metrics.jsonl has, as curves."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in read_metrics(run / "metrics.jsonl"):
        for tag, value in scalars_of(line).items():
            curves.setdefault(tag, []).append((line["round"], value))
    return curves


def without_time(curves: dict[str, Any]) -> dict[str, Any]:
    return {tag: curve for tag, curve in curves.items() if not tag.startswith("seconds/")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of three rounds told, the first alone in a checkpoint; then resumed and lengthened to four."""
    base = tmp_path_factory.mktemp("logs")
    with pytest.raises(Broken):
        start(base, trackers=[BreaksAfter(2)])
    (folder,) = base.glob("*/config.yaml")
    fedlens.resume(folder.parent, "federated.num_rounds=4", show=False, **given())
    return folder.parent


def test_mlflow_has_every_number_of_every_round_once(run: Path) -> None:
    client, found = mlflow_run(run.parent, run.name)
    expected = without_time(told(run))
    assert [number for number, _ in expected["test/accuracy"]] == [1, 2, 3, 4]
    assert {tag: mlflow_curve(client, found, tag) for tag in expected} == expected
    assert [number for number, _ in mlflow_curve(client, found, "seconds/train")] == [1, 2, 3, 4]
    assert found.info.status == "FINISHED"


def test_weights_and_biases_has_every_number_of_every_round_once(run: Path) -> None:
    expected = told(run)
    assert {tag: wandb_curve(run, tag) for tag in expected} == expected


def test_the_final_metrics_are_those_of_the_last_round(run: Path) -> None:
    last = read_metrics(run / "metrics.jsonl")[-1]
    client, found = mlflow_run(run.parent, run.name)
    assert mlflow_curve(client, found, "final/test_accuracy") == [(4, last["test"]["accuracy"])]
    summary = wandb_files.summary(wandb_folder(run))
    assert summary["final/test_accuracy"] == last["test"]["accuracy"]
    assert summary["final/client_accuracy"] == last["clients"]["accuracy"]


def test_parameters_are_the_configuration(run: Path) -> None:
    """MLflow's parameters cannot change: what a resume changes is a tag."""
    _, found = mlflow_run(run.parent, run.name)
    shown = {key: found.data.params[key] for key in ("strategy.name", "optimizer.lr", "federated.num_rounds")}
    assert shown == {"strategy.name": "fedavg", "optimizer.lr": "0.05", "federated.num_rounds": "3"}
    assert found.data.tags["federated.num_rounds"] == "4"
    settings = wandb_files.config(wandb_folder(run))
    assert settings["optimizer"]["lr"] == 0.05
    assert settings["federated"]["num_rounds"] == 4
    for key in ("tracking", "runtime", "server", "plugins"):
        assert key not in settings
        assert not [name for name in found.data.params if name.startswith(f"{key}.")]


def test_pictures_and_the_report(run: Path) -> None:
    """The images are numbers of the user's own, so there are no predictions to show."""
    client, found = mlflow_run(run.parent, run.name)
    pictures = [one.path for one in client.list_artifacts(found.info.run_id, "pictures")]
    assert pictures == ["pictures/confusion-test.png", "pictures/data-partition.png"]
    kept = run.parent / "mlflow" / "artifacts" / found.info.run_id / "artifacts"
    assert (kept / "report.html").read_bytes() == (run / "report.html").read_bytes()
    assert all((kept / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)
    folder = wandb_folder(run)
    files = [path for row in wandb_files.history(folder) for key, path in row.items() if key.endswith("/path")]
    assert {re.sub(r"_\d+_\w+", "", path) for path in files} == {
        f"media/images/pictures/{name}.png" for name in ("data/partition", "confusion/test")
    }
    assert all((folder / "files" / path).read_bytes().startswith(b"\x89PNG") for path in files)
    (artifact,) = (record.artifact for record in wandb_files.records(folder) if record.HasField("artifact"))
    (entry,) = artifact.manifest.contents
    assert (artifact.type, entry.path, Path(entry.local_path)) == ("report", "report.html", run / "report.html")


def test_what_is_kept_names_neither_machine_nor_person(run: Path) -> None:
    from getpass import getuser
    from socket import gethostname

    assert {record.run.host for record in wandb_files.records(wandb_folder(run))} == {"", "-"}
    assert json.loads((run / "mlflow.json").read_text()).keys() == {"run_id"}
    assert not list(wandb_folder(run).rglob("wandb-metadata.json"))
    _, found = mlflow_run(run.parent, run.name)
    assert not {getuser(), gethostname()} & {*found.data.tags.values(), *found.data.params.values()}


def test_trackers_that_come_late_get_the_rounds_before(tmp_path: Path) -> None:
    first = runs.run(tmp_path, "federated.num_rounds=2", "data.partition.clients=3", **given())
    fedlens.resume(first.folder, "federated.num_rounds=3", *BOTH, show=False, **given())
    expected = told(first.folder)
    client, found = mlflow_run(tmp_path, first.folder.name)
    assert {tag: mlflow_curve(client, found, tag) for tag in expected} == expected
    assert {tag: wandb_curve(first.folder, tag) for tag in expected} == expected


def test_a_server_that_cannot_be_reached_is_one_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens on port 9 of this machine. Passwords are not repeated, and Weights & Biases goes on."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    screen = Notes()
    done = runs.fedlens.run(
        None, *runs.QUICK[1:], *SETTINGS, f"tracking.dir={tmp_path}", "federated.num_rounds=2", show=screen, **given()
    )
    (note,) = (text for text in screen.notes if "tracking." in text)
    assert note.startswith("tracking.mlflow: ")
    assert "secret" not in note
    assert "The run goes on without it" in note
    assert [number for number, _ in wandb_curve(done.folder, "test/loss")] == [1, 2]
    assert (done.folder / "result.json").exists()
    for file in (path for path in done.folder.iterdir() if path.is_file()):
        assert b"secret" not in file.read_bytes(), file


def test_what_fails_during_the_run_is_left_out_from_then_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a server that goes away after the first round; a resume adds what is missing."""
    from mlflow import MlflowClient

    log, calls = MlflowClient.log_batch, []

    def gone(client: MlflowClient, *arguments: Any, **named: Any) -> Any:
        if any(metric.step == 2 for metric in named.get("metrics", [])):
            calls.append("refused")
            raise ConnectionError("gone\nfor good")
        return log(client, *arguments, **named)

    monkeypatch.setattr(MlflowClient, "log_batch", gone)
    screen = Notes()
    quiet = (*runs.QUICK[1:], "data.partition.clients=3", "tracking.mlflow=true", f"tracking.dir={tmp_path}")
    done = fedlens.run(None, *quiet, show=screen, **given())
    assert calls == ["refused"]
    assert [text[:40] for text in screen.notes if "mlflow" in text] == ["tracking.mlflow: gone. The run goes on w"]
    monkeypatch.setattr(MlflowClient, "log_batch", log)
    fedlens.resume(done.folder, show=False, **given())
    client, found = mlflow_run(tmp_path, done.folder.name)
    assert [number for number, _ in mlflow_curve(client, found, "test/loss")] == [1, 2, 3]


def test_a_missing_package_is_told_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "find_spec", lambda _name: None)
    for key in ("mlflow", "wandb"):
        with refuses(("unavailable", f"tracking.{key}")) as refused:
            runs.run(tmp_path, f"tracking.{key}=true", "data.path=NOWHERE")
        assert f"pip install 'fedlens[{key}]'" in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_keys_are_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuses:
        def close(self, ended: bool) -> None:
            raise ValueError("key 0123456789abcdef is not known at https://me:word@host/api")

    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    notes: list[str] = []
    all_of_them = writers.Writers({"wandb": Refuses()}, notes.append)  # type: ignore[dict-item]
    all_of_them.tell(lambda writer: writer.close(ended=True))
    assert [note.partition(". ")[0] for note in notes] == ["tracking.wandb: key … is not known at https://…@host/api"]
    assert not all_of_them


@pytest.mark.parametrize(
    ("environment", "login", "expected"),
    [
        ({}, None, False),
        ({}, "api.wandb.ai", True),
        ({}, "elsewhere.example", False),
        ({"WANDB_BASE_URL": "https://w.example"}, "w.example", True),
        ({"WANDB_API_KEY": "k"}, None, True),
        ({"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, None, False),
        ({"WANDB_MODE": "online"}, None, True),
    ],
)
def test_weights_and_biases_is_offline_without_a_key(
    environment: dict[str, str],
    login: str | None,
    expected: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fedlens.tracking.wandb import online

    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    if login:
        (tmp_path / "netrc").write_text(f"machine {login} login user password key\n")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert online() is expected
