"""What a site refuses: by its own rules, for want of images, or because a server asks for what it cannot do."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from tests.photos import photos
from tests.sites import refused, setup, task

from fedlens.core.types import ClientFailure, ClientResult, Stage, Task, TaskSettings
from fedlens.errors import DataError
from fedlens.flower.messages import Prepared
from fedlens.models.text_readers import Tokens
from fedlens.training.tasks.secure_keys import KeysSettings

# -- what a site refuses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("strategies=[fedprox]", "this site's allow.strategies is fedprox, and the run uses fedavg"),
        ("strategies=[]", "this site's allow.strategies is empty, and the run uses fedavg"),
        ("personalizations=[fedper]", "this site's allow.personalizations is fedper, and the run uses none"),
        ("models=[cnn, vit_b_16]", "this site's allow.models is cnn, vit_b_16, and the run uses lenet"),
        ("max_local_epochs=1", "this site's allow.max_local_epochs is 1, and the run asks for 2 local epochs"),
        ("max_rounds=2", "this site's allow.max_rounds is 2, and the run asks for 3 rounds"),
        ("min_images=19", "this site has fewer training images than its allow.min_images=19"),
        ("max_epsilon=8", "this site's allow.max_epsilon is 8, and the run promises no differential privacy"),
        (
            "secure_aggregation_only=true",
            "this site's allow.secure_aggregation_only is true, and the run's updates are not aggregated securely",
        ),
    ],
)
def test_a_rule_of_the_site(place, rule: str, line: str) -> None:
    site = place.site(f"allow.{rule}")
    assert refused(site.prepare(setup())) == line
    free = Task("client1", 1, "train", {}, TaskSettings(lr=0.1))
    assert refused(site.run(free, setup())) == line, "tasks need no preparation, and are bound as well"


@pytest.mark.parametrize("model", ["fusion", "dual_encoder"])
def test_a_server_that_reads_texts_in_another_way(place, model: str) -> None:
    told = setup(model={"name": model, "width": 8})
    other = replace(told, text_reader="another tokenizer")
    assert refused(place.site().prepare(other)).startswith("this site reads texts in another way than the server")
    same = replace(told, text_reader=Tokens(32).key)
    assert isinstance(place.site().prepare(same), Prepared)


def test_a_run_with_secure_aggregation_gets_no_update_that_is_not_masked(place) -> None:
    site, told = place.site("allow.secure_aggregation_only=true"), setup(privacy={"secure_aggregation": True})
    assert isinstance(site.prepare(told), Prepared)
    assert refused(site.run(task(site, told), told)).startswith("the run has secure aggregation, and the task asks for")
    keys = Task("client1", 1, "secure_keys", {}, KeysSettings(session="0" * 32), stage=Stage(0, last=False))
    assert isinstance(site.run(keys, told), ClientResult), "a task that needs no model"


@pytest.mark.parametrize(
    ("method", "passes"),
    [
        ({"name": "fedrep", "head_epochs": 9}, 11),
        ({"name": "ditto", "personal_epochs": 4}, 6),
        ({"name": "finetune", "tune_epochs": 5}, 7),
        ({"name": "pfedme", "personal_steps": 5}, 12),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else None,
)
def test_a_personalisation_does_not_get_round_the_limit_of_passes(place, method: dict, passes: int) -> None:
    told = setup(personalization=method)
    line = f"allow.max_local_epochs is {passes - 1}, and the run asks for {passes} passes over the images in a round"
    assert refused(place.site(f"allow.max_local_epochs={passes - 1}").prepare(told)) == f"this site's {line}"
    assert isinstance(place.site(f"allow.max_local_epochs={passes}").prepare(told), Prepared)


@pytest.mark.parametrize(
    "rule",
    [
        "strategies=[fedavg]",
        "personalizations=[none]",
        "models=[lenet]",
        "max_local_epochs=2",
        "max_rounds=3",
        "min_images=18",
        "max_epsilon=null",
    ],
)
def test_what_a_rule_allows(place, rule: str) -> None:
    assert isinstance(place.site(f"allow.{rule}").prepare(setup()), Prepared)


@pytest.mark.parametrize(
    ("privacy", "line"),
    [
        ({"noise_multiplier": 0.5}, "may spend ε = "),
        ({"noise_multiplier": 0.0}, "may spend ε = inf"),
        ({"noise_multiplier": 9.0, "insecure_seed": 1}, "has a privacy.insecure_seed, from which its noise can be com"),
        ({"noise_multiplier": 1.0, "budget": 7.0}, None),
        ({"noise_multiplier": 9.0}, None),
        ({"target_epsilon": 8.0}, None),
        ({"secure_aggregation": True, "noise_multiplier": 9.0}, None),
        ({"secure_aggregation": True, "noise_multiplier": 0.5}, "may spend ε = "),
        ({"secure_aggregation": True, "noise_multiplier": 1.0, "budget": 7.0}, None),
        ({"target_epsilon": 8.1}, "may spend ε = 8."),
        ({"mode": "local", "noise_multiplier": 9.0}, "has no privacy.budget: without one this site would do a round"),
        ({"mode": "local", "noise_multiplier": 9.0, "budget": 8.0}, None),
        ({"mode": "local", "noise_multiplier": 90.0, "budget": 100.0}, "may spend ε = 100 at δ"),
        ({"delta": 0.99}, "counts it at δ = 0.99, and allow.max_delta is 1e-05"),
    ],
)
def test_a_site_counts_the_privacy_that_a_run_may_spend_by_itself(place, privacy: dict, line: str | None) -> None:
    central = {"mode": "central", "population": 10}
    told = setup(privacy={**({} if "mode" in privacy else central), **privacy})
    answer = place.site("allow.max_epsilon=8").prepare(told)
    if line is None:
        assert answer == Prepared((), (), ()), "how many images of which class it has stays at the site"
    else:
        assert refused(answer).startswith(f"this site's allow.max_epsilon is 8, and the run {line}")


@pytest.mark.parametrize("kind", ["evaluate", "evaluate_shared"])
@pytest.mark.parametrize("privacy", [{"mode": "local", "budget": 8.0}, {"secure_aggregation": True}])
def test_what_is_measured_on_images_stays_at_the_site(place, privacy: dict, kind: str) -> None:
    site, told = place.site(), setup(privacy=privacy)
    assert isinstance(site.prepare(told), Prepared)
    asked = Task("client1", 1, kind, {}, TaskSettings(splits=("test",)))
    assert refused(site.run(asked, told)).startswith("the run's privacy keeps what is measured on this site's images")


def test_a_site_with_a_limit_does_not_tell_how_many_images_it_has(place) -> None:
    assert place.site().describe().images == 30
    assert place.site("allow.max_epsilon=8").describe().images == 0


@pytest.mark.parametrize(
    ("privacy", "line"),
    [
        ({}, "has no privacy.budget: without one this site would do a round as often as it is asked"),
        ({"budget": 8.1}, "may spend ε = 8.1 at δ = 1e-05"),
        ({"budget": 8.0}, None),
    ],
)
def test_a_site_that_hides_its_images_by_itself_wants_a_budget_to_keep(place, privacy: dict, line: str | None) -> None:
    told = setup(privacy={"mode": "example", "noise_multiplier": 1.0, "min_images": 10, **privacy})
    answer = place.site("allow.max_epsilon=8").prepare(told)
    if line is None:
        assert answer == Prepared((), (), ())
    else:
        assert refused(answer) == f"this site's allow.max_epsilon is 8, and the run {line}"


def test_a_site_trains_by_dp_sgd_until_its_budget_is_spent(place) -> None:
    """Its 18 images are one batch: a round is two steps with all of them, whatever the server asks for."""
    site, told = place.site(), setup(privacy={"mode": "example", "min_images": 10, "budget": 8.0})
    first = site.run(task(site, told), told)
    assert isinstance(first, ClientResult)
    assert first.report.weight == 1.0
    assert set(first.report.metrics) == {"seconds", "bytes_down", "bytes_up"}
    again = site.run(task(site, told), told)
    assert isinstance(again, ClientFailure)
    assert again.reason == "this client's privacy budget is spent (privacy.budget = 8): it takes no further part"
    many = setup(run="run-2", privacy={"mode": "example", "min_images": 19})
    few = site.run(task(site, many), many)
    assert isinstance(few, ClientFailure)
    assert few.reason.startswith("this client has fewer training images than privacy.min_images = 19")


def test_unknown_classes_are_named(place) -> None:
    line = refused(place.site().prepare(setup(("cup", "spoon"))))
    assert "the server knows no fork, plate; its 2 classes are cup, spoon" in line


@pytest.mark.parametrize(
    ("section", "key", "value", "line"),
    [
        ("model", "name", "os.system", "model.name = 'os.system': unknown"),
        ("model", "name", "evil_plugin:Model", "model.name = 'evil_plugin:Model'"),
        ("strategy", "name", "package.module.Class", "strategy.name = 'package.module.Class'"),
        ("optimizer", "lr", -1, "optimizer.lr = -1: must be a number above 0"),
        ("federated", "local_epochs", "many", "federated.local_epochs = 'many'"),
        ("memory", "unheard_of", 1, "memory.unheard_of"),
        ("data", "validation", 2, "data.validation = 2"),
        ("data", "augment", "own", "data.augment = 'own'"),
    ],
)
def test_a_configuration_that_this_fedlens_does_not_know(place, section: str, key: str, value, line: str) -> None:
    told = setup()
    told.config[section][key] = value
    assert refused(place.site().prepare(told)).startswith(line)


@pytest.mark.parametrize("section", ["model", "federated", "strategy", "optimizer", "memory", "data", "seed"])
@pytest.mark.parametrize("value", [5.5, "text", [1]])
def test_a_configuration_without_a_part(place, section: str, value) -> None:
    told = setup()
    told.config[section] = value
    assert re.search(f"^{section} = .*: must be|has it in another form", refused(place.site().prepare(told)))
    del told.config[section]
    assert f"the server's configuration lacks a part, or has it in another form: '{section}'" in refused(
        place.site().prepare(told)
    )


def test_tasks_that_are_not_the_sites(place) -> None:
    site, told = place.site(), setup()
    mine = task(site, told)
    assert "this is client1, and the task is client2's" in refused(site.run(replace(mine, client="client2"), told))
    assert "lacks parts of the model" in refused(site.run(replace(mine, payload={}), told))
    late = refused(site.run(replace(mine, round=4), told))
    assert late == "the run was to have 3 rounds, and this is round 4"
    assert isinstance(
        site.run(replace(mine, round=4, kind="evaluate_shared", settings=TaskSettings(splits=("test",))), told),
        ClientResult,
    )


@pytest.mark.parametrize("name", ["shape", "type"])
def test_a_task_that_cannot_be_done_is_a_failure(place, name: str) -> None:
    site, told = place.site(), setup()
    mine = task(site, told)
    first = next(iter(mine.payload))
    wrong = torch.zeros(7, 7) if name == "shape" else mine.payload[first].to(torch.int8).reshape(-1)
    outcome = site.run(replace(mine, payload={**mine.payload, first: wrong}), told)
    assert isinstance(outcome, ClientFailure)


def test_settings_that_cannot_be_are_a_failure(place) -> None:
    site, told = place.site(), setup()
    assert isinstance(site.run(task(site, told, settings=TaskSettings(lr=float("nan"))), told), ClientFailure)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda folder: folder / "nowhere", "data_dir: .*nowhere does not exist"),
        (lambda folder: (folder / "empty").mkdir() or folder / "empty", "data_dir: "),
    ],
)
def test_images_that_are_not_there(place, make, line: str) -> None:
    site = place.site(images=make(place.folder))
    with pytest.raises(DataError, match=line) as caught:
        site.describe()
    assert "data.path" not in str(caught.value)


def test_folders_of_several_clients_are_explained(place) -> None:
    for client in ("client1", "client2"):
        photos(place.folder / "out" / client)
    with pytest.raises(DataError, match=r"holds the folders of several clients: name one of them, such as .*client1"):
        place.site(images=place.folder / "out").describe()
