"""The model of a finished run that is to be exported, and what it is tried on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from fedlens.build.load import load_saved
from fedlens.errors import ConfigError, FedLensError, ModelError
from fedlens.export.base import Trained
from fedlens.export.probe import Probe, images_of_test, of_rows
from fedlens.inference.personal import clients_of, open_personal, some
from fedlens.models.artefact import load_model
from fedlens.models.base import Recognizer
from fedlens.models.build import builder_named
from fedlens.models.description import DESCRIPTION, ModelDescription, read_description
from fedlens.models.lora import merged
from fedlens.reports.load import LoadedRun, load_run
from fedlens.tracking.next_steps import from_python, resuming
from fedlens.tracking.run_dir import RunDir


@dataclass(frozen=True)
class Source:
    """run: what it has written; client: whose own model it is, or None; best: the one with the lowest validation loss;
    notes: what the user should know."""

    run: LoadedRun
    trained: Trained
    probe: Probe
    client: str | None
    best: bool
    notes: tuple[str, ...]


def open_source(folder: Path, client: str | None, best: bool) -> Source:
    """The shared model of a finished run, its best one, or that of a client.

    Raises:
        ConfigError: no run; `client` and `best` together.
        ModelError: the run keeps no such model, or not the whole of it.
        FedLensError: the run has not finished, or one of its files is damaged.
    """
    if client is not None and best:
        raise ConfigError(
            "--best: the best model is a shared one, so it does not go with --client; leave one of them out",
            code="contradiction",
            key="--best",
        )
    run = load_run(folder)
    _check_finished(run)
    if run.config.get("plugins"):
        load_saved(run.folder.config)  # for the models that they register
    description = read_description(run.folder.model)
    _check_configured(run.folder, description)
    if client is None:
        trained, probe, remark = _shared(run.folder, best)
    else:
        trained, probe, remark = _personal(run.folder, client, description)
    notes = (remark, probe.note, _given_pixels(run))
    return Source(run, trained, probe, client, best, tuple(filter(None, notes)))


def _shared(run: RunDir, best: bool) -> tuple[Trained, Probe, str]:
    folder = run.path / "best" if best else run.model
    if best and not (folder / DESCRIPTION).exists():
        raise ModelError(f"{run.path} keeps no best model, as it had no validation images; leave --best out")
    model, description = load_model(folder)
    if description.partly_private:
        raise ModelError(f"{folder}: {_in_parts(run)}")
    return Trained(model, description), images_of_test(run, description), ""


def _in_parts(run: RunDir) -> str:
    if run.superlink.exists():
        return "parts of this model stay on the sites' own machines, so there is no whole model here"
    return f"parts of this model stay with the clients; choose one with --client: {some(clients_of(run))}"


def _personal(run: RunDir, client: str, description: ModelDescription) -> tuple[Trained, Probe, str]:
    found = open_personal(run, client)
    model = merged(found.model)
    assert isinstance(model, Recognizer), "a configured run, as checked"
    description = replace(description, accuracy=None, partly_private=False)
    own = next(one.test for one in found.images.clients if one.name == client)
    rows, whose = (own, f"of {client}") if len(own) else (found.images.test, "of the run")
    probe = of_rows(found.images, rows, whose) if len(rows) else images_of_test(run, description)
    return Trained(model.eval(), description), probe, found.remark


def _check_finished(run: LoadedRun) -> None:
    if run.folder.result.exists():
        return
    command = "fedlens server --resume" if run.folder.superlink.exists() else "fedlens resume"
    planned = run.config.get("federated", {}).get("num_rounds")
    raise FedLensError(
        f"{run.folder.path} has not finished ({run.folder.rounds_done} of {planned} rounds are done): go on with it "
        f"first, {resuming(str(run.folder.path), command)}"
    )


def _check_configured(run: RunDir, description: ModelDescription) -> None:
    if description.builder is None:
        raise ModelError(
            f"{run.path} trained a module of your own, whose code is not kept with the run: from Python, give "
            f"fedlens.load_run(…).model_of(client, model=…) or load_model(folder, module) to torch.onnx.export"
        )
    if builder_named(description.builder, description.parameters).reads_texts:
        raise ModelError(
            f"{run.path}: model {description.builder} takes images and texts, and an exported model images alone; "
            "use fedlens.models.artefact.load_model from Python"
        )


def _given_pixels(run: LoadedRun) -> str:
    """Whether pixels were scaled in training is not kept with a run whose data is a Python program's."""
    if "data" not in from_python(run.config):
        return ""
    return (
        "the run's images were given from Python: the export takes pixels from 0 to 255 and scales them, which is "
        "wrong if the run was given float tensors"
    )
