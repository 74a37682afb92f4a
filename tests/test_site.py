"""A site's own side: its rules, its images, and nothing that a server could choose for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tests.photos import CLASSES, photos
from tests.problems import refuses_with
from tests.sites import refused, setup, task

import fedlens.flower.site as site_module
from fedlens.build.load import load
from fedlens.core.types import ClientFailure, ClientResult, Task, TaskSettings
from fedlens.flower.messages import Description, Prepared, Refusal
from fedlens.flower.site import site_maker
from fedlens.flower.site_policy import local_config
from fedlens.flower.site_state import exclusive_lock, identity
from fedlens.tracking.observer import Silent

# -- taking part -------------------------------------------------------------------------------------------------------


def test_how_a_site_introduces_itself(place) -> None:
    description = place.site("partition_id=4").describe()
    assert isinstance(description, Description)
    assert (description.name, description.partition, description.images) == ("client5", 4, 30)
    assert (description.class_names, description.native_size, description.channels) == (CLASSES, 28, 3)
    assert description.device == "cpu"


def test_a_site_gets_ready(place) -> None:
    ready = place.site().prepare(setup())
    assert isinstance(ready, Prepared)
    assert ready == Prepared(train=(6, 6, 6), val=(2, 2, 2), test=(2, 2, 2))
    assert any("decoded images in the cache" in line for line in place.said)


def test_a_site_trains(place) -> None:
    site, told = place.site(), setup()
    answer = site.run(task(site, told), told)
    assert isinstance(answer, ClientResult)
    assert answer.report.weight == 18
    assert any((value.abs() > 0).any() for value in answer.payload.values())
    counted = site.run(task(site, told, kind="evaluate_shared", settings=TaskSettings(splits=("test", "val"))), told)
    assert {split: int(value.sum()) for split, value in counted.payload.items()} == {"test": 6, "val": 6}


def test_a_site_holds_only_some_classes(place) -> None:
    photos(place.folder / "some", classes=CLASSES[:2])
    ready = place.site(images=place.folder / "some").prepare(setup(CLASSES[::-1]))
    assert ready == Prepared(train=(0, 6, 6), val=(0, 2, 2), test=(0, 2, 2))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_site_has_the_channels_of_the_federation(place, channels: int) -> None:
    site, told = place.site(), replace(setup(), channels=channels)
    assert isinstance(site.run(task(site, told), told), ClientResult)
    assert site._experiment(told).images.channels == channels


def test_a_gpu_that_is_full_is_one_line_and_may_have_room_later(place, monkeypatch) -> None:
    site, build = place.site(), site_module.build_experiment
    site.prepare(setup())
    held = []

    def full(*_given, **_named) -> None:
        held.append(site._built)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …")

    monkeypatch.setattr(site_module, "build_experiment", full)
    outcome = site.prepare(setup(run="run-2"))
    assert "the GPU's memory is full, 2.00 GiB more were wanted" in refused(outcome)
    assert not outcome.final
    assert held == [None], "there is never room for two models"
    monkeypatch.setattr(site_module, "build_experiment", build)
    assert isinstance(site.prepare(setup(run="run-2")), Prepared)


def test_the_server_cannot_foretell_a_sites_secret_draws(place) -> None:
    """It knows the run's seed, which all other draws come from."""
    built, a_task = place.site()._experiment(setup()), Task("client1", 1, "train", {})
    assert len({built.trainer.secret_seed(a_task) for _ in range(3)}) == 3
    assert built.trainer.encoding_context(a_task) != built.trainer.encoding_context(a_task)


def test_it_is_built_once_for_a_setup(place) -> None:
    site = place.site()
    first = site._experiment(setup())
    assert site._experiment(setup()) is first
    assert site._experiment(setup(run="run-2")) is not first


def test_two_setups_in_turn_are_each_followed(place) -> None:
    site = place.site()
    assert isinstance(site.prepare(setup()), Prepared)
    assert isinstance(site.prepare(setup(CLASSES[:1])), Refusal)
    assert isinstance(site.prepare(setup()), Prepared)


def test_a_setup_of_twice_the_classes(place) -> None:
    ready = place.site().prepare(setup(("bowl", *CLASSES, "spoon")))
    assert ready.train == (0, 6, 6, 6, 0)


def test_private_state_lies_under_the_sites_folder(place) -> None:
    site, told = place.site(), setup(optimizer={"keep": True})
    answer = site.run(task(site, told), told)
    assert answer.report.stored
    (kept,) = place.folder.rglob("*.safetensors")
    assert kept.is_relative_to(place.folder / "state" / "run-1")
    again = site.run(task(site, told, round=2, store_version=1), told)
    assert again.report.stored
    lost = site.run(task(site, told, round=3, store_version=0), told)
    assert isinstance(lost, ClientFailure)
    assert "no private state of version 0" in lost.reason


# -- what a server cannot choose ---------------------------------------------------------------------------------------


def test_the_servers_paths_and_plugins_are_never_used(place) -> None:
    evil, own = place.folder / "evil.py", place.folder / "own.py"
    evil.write_text(f"open({str(place.folder / 'ran')!r}, 'w')\n")
    own.write_text("")
    told = setup()
    told.config["plugins"] = [str(evil)]
    told.config["model"]["weights"] = "/etc/passwd"
    told.config["data"] |= {"path": "/etc", "source": "clients", "cache_dir": "/tmp/servers", "on_bad_image": "fail"}
    told.config["tracking"]["dir"] = "/servers/logs"
    told.config["runtime"] |= {"name": "ray", "address": "evil.example.org:6379", "device": "cuda:7", "workers": 64}
    told.config["server"] |= {"certs": "/servers/keys", "insecure": True}
    config = local_config(told, place.config(f"plugins=[{own}]", f"cache_dir={place.folder / 'own-cache'}"))
    assert config.plugins == [own]
    assert config.model.weights is None
    assert (config.data.path, config.data.source) == (None, "auto")
    assert config.data.cache_dir == place.folder / "own-cache"
    assert (config.runtime.name, config.runtime.device) == ("in_process", "cpu")
    defaults = load()
    assert (config.tracking, config.server) == (defaults.tracking, defaults.server)
    assert isinstance(place.site(f"plugins=[{own}]").prepare(told), Prepared)
    assert not (place.folder / "ran").exists()


@pytest.mark.parametrize(
    ("more", "kept"),
    [({}, False), ({"freeze": "backbone"}, True), ({"freeze": 3}, True), ({"lora": {"rank": 4}}, True)],
)
def test_pretrained_weights_come_with_the_task(place, more: dict, kept: bool) -> None:
    told = setup(model={"name": "mobilenetv3", "pretrained": True, **more})
    assert local_config(told, place.config()).model.pretrained is kept


@pytest.mark.parametrize(
    ("more", "kept"),
    [({}, False), ({"lock_text": True}, True), ({"tune": "adapter"}, True)],
)
def test_a_dual_encoder_that_is_trained_in_part_starts_from_pretrained_weights(place, more: dict, kept: bool) -> None:
    """What is not trained comes with no task."""
    told = setup(model={"name": "open_clip", "architecture": "ViT-B-32", "tag": "openai"})
    told.config["model"] |= {"pretrained": True, **more}
    assert local_config(told, place.config()).model.pretrained is kept


@pytest.mark.parametrize(("name", "kept"), [("fedper", True), ("lgfedavg", True), ("fedbn", True), ("ditto", False)])
def test_private_parts_start_from_pretrained_weights(place, name: str, kept: bool) -> None:
    """They come with no task, so the site has to have them itself."""
    told = setup(model={"name": "mobilenetv3", "pretrained": True}, personalization={"name": name})
    assert local_config(told, place.config()).model.pretrained is kept
    told.config["model"]["pretrained"] = False
    assert local_config(told, place.config()).model.pretrained is False


def test_private_parts_are_kept_here_and_asked_of_nobody(place) -> None:
    site, told = place.site(), setup(personalization={"name": "lgfedavg"})
    site.prepare(told)
    whole = site._experiment(told).resident.state()
    shared = {name: value for name, value in whole.items() if name.startswith("head.")}
    trained = site.run(Task("client1", 1, "train", shared, TaskSettings(lr=0.05)), told)
    assert trained.payload.keys() == shared.keys()
    (kept,) = place.folder.rglob("*.safetensors")
    assert {name.removeprefix("private/") for name in load_file(kept)} == whole.keys() - shared.keys()
    assert isinstance(site.run(Task("client1", 1, "evaluate", shared, TaskSettings(), 1), told), ClientResult)


def test_a_method_that_does_not_fit_the_model(place) -> None:
    line = refused(place.site().prepare(setup(personalization={"name": "fedbn"})))
    assert "personalization.name = 'fedbn': this model has no normalisation layer that trains" in line


def test_the_pace_of_training_is_the_servers(place) -> None:
    told = setup(transfer={"probe_rounds": 2})
    assert local_config(told, place.config()).transfer.probe_rounds == 2


def test_outputs_are_the_label_spaces(place) -> None:
    assert local_config(setup(), place.config()).model.num_classes == 3
    assert local_config(setup(model={"num_classes": 10}), place.config()).model.num_classes == 10


# -- one site, one folder ----------------------------------------------------------------------------------------------


def test_an_identity_is_drawn_once(tmp_path) -> None:
    first = identity(tmp_path / "a")
    assert identity(tmp_path / "a") == first
    assert identity(tmp_path / "b") != first
    assert len(first) == 32


def test_a_restarted_site_is_the_same_one(place) -> None:
    assert place.site().describe().identity == place.site().describe().identity


def test_a_second_client_on_one_state_folder_is_refused_by_name(place) -> None:
    config = place.config("partition_id=2")
    with exclusive_lock(config):
        with refuses_with("in_use", "partition_id=2: a client of that partition (client3) already runs here"):
            exclusive_lock(config).__enter__()
        with exclusive_lock(place.config(f"state_dir={place.folder / 'other'}")):
            pass
    with exclusive_lock(config):
        pass


def test_a_state_folder_that_cannot_be(place) -> None:
    (place.folder / "file").write_text("")
    with refuses_with("unwritable", f"state_dir: {place.folder / 'file'} cannot be used: "):
        exclusive_lock(place.config(f"state_dir={place.folder / 'file'}")).__enter__()


def test_what_goes_wrong_later_is_not_the_folders_fault(place) -> None:
    with pytest.raises(ConnectionResetError), exclusive_lock(place.config()):
        raise ConnectionResetError("by peer")


def test_a_full_disk_is_said_before_training(place, monkeypatch) -> None:
    import fedlens.flower.site as module

    monkeypatch.setattr(module, "FREE_DISK", 10**18)
    assert "state_dir: " in refused(place.site().prepare(setup()))


def test_a_sites_maker_goes_to_another_process(place) -> None:
    import pickle

    make = pickle.loads(pickle.dumps(site_maker(place.config())))
    assert make(print, Silent().progress).describe().images == 30
