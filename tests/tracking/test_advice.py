"""What a run that did not go well is told, in one line with the command."""

from __future__ import annotations

from typing import Any

import pytest

from fedlens.tracking.advice import Commands, advice

COMMANDS = Commands("fedlens run data.path=./data model.name=cnn model.norm=group", "fedlens resume logs/run")
CONFIG = {
    "federated": {"num_rounds": 2},
    "optimizer": {"name": "sgd", "lr": 0.1},
    "model": {"name": "cnn", "pretrained": False, "weights": None},
}
PRETRAINED = "fedlens run data.path=./data model.name=efficientnet_lite0 model.pretrained=true"


def line(number: int, accuracy: float = 0.9, validation: float = 1.0, **more: Any) -> dict[str, Any]:
    """A round on 100 test images of four classes, of which 30 are of the commonest."""
    test = {"accuracy": accuracy, "examples": 100, "chance": 0.25, "majority": 0.3}
    return {
        "round": number,
        "train_loss": 0.5,
        "test": test,
        "validation": {"loss": validation, "chance": 0.25},
        "clients": None,
        "cohort": [{}] * 5,
        "failures": [],
        **more,
    }


def test_a_good_run_is_told_nothing() -> None:
    assert advice([line(1), line(2)], CONFIG, COMMANDS) is None
    assert advice([], CONFIG, COMMANDS) is None


def test_clients_that_diverge_want_a_smaller_learning_rate() -> None:
    lost = [{"client": "c", "reason": "training diverged: the update or the loss is not finite"}] * 3
    told = advice([line(1, cohort=[{}] * 2, failures=lost), line(2)], CONFIG, COMMANDS)
    assert told == (
        "3 of 10 client updates diverged: the learning rate (0.1) is too high. "
        "Try: fedlens run data.path=./data model.name=cnn model.norm=group optimizer.lr=0.01"
    )
    gone = [{"client": "c", "reason": "no answer"}]
    assert advice([line(1, failures=gone), line(2)], CONFIG, COMMANDS) is None


def test_losses_that_nobody_told_are_no_sign_of_divergence() -> None:
    """With secure aggregation clients tell seconds and bytes."""
    quiet = [{"client": "client1", "metrics": {"seconds": 1.0}}]
    told = advice([line(1), line(2, train_loss=None, cohort=quiet)], CONFIG, COMMANDS)
    assert told is None or "learning rate" not in told


@pytest.mark.parametrize("loss", [3.3e26, 5.0, None])
def test_so_does_a_loss_far_above_that_of_guessing(loss: float | None) -> None:
    """ln 4 = 1.39; three times that is 4.16. A loss that is not finite is null in the file."""
    config = {**CONFIG, "optimizer": {"name": "adamw", "lr": 1000}}
    told = advice([line(1), line(2, train_loss=loss)], config, COMMANDS)
    assert told is not None
    assert told.startswith("the training loss ended far above that of guessing (1.39)")
    assert told.endswith("optimizer.lr=0.001")


@pytest.mark.parametrize(("accuracy", "verdict"), [(0.3, "is no better than"), (0.38, "cannot be told from")])
def test_no_better_than_without_learning_wants_pretrained_weights(accuracy: float, verdict: str) -> None:
    """Wilson's interval of 38 of 100 begins at 29.1 %, below the 30 % of the commonest class."""
    told = advice([line(1), line(2, accuracy)], CONFIG, COMMANDS)
    assert told == (
        f"test accuracy {100 * accuracy:.1f} % on 100 images {verdict} naming one class without learning (30.0 %). "
        f"Try: {PRETRAINED} model.freeze=backbone"
    )


def test_what_has_pretrained_weights_already_wants_more_rounds() -> None:
    config = {**CONFIG, "model": {"name": "resnet50", "pretrained": True}}
    told = advice([line(1), line(2, 0.3)], config, COMMANDS)
    assert told is not None
    assert told.endswith("Try: fedlens resume logs/run federated.num_rounds=4")


def test_personal_models_are_held_against_each_clients_own_class() -> None:
    """71 of 100 images right, where naming each client's commonest class gives 69: no proof of learning. Methods that
    tell head and body apart refuse a frozen backbone."""
    clients = {
        "accuracy": 0.707,
        "accuracy_over_examples": 0.71,
        "examples": 100,
        "evaluated": 5,
        "chance": 0.1,
        "majority": 0.2,
        "own_majority": 0.69,
    }
    config = {**CONFIG, "personalization": {"name": "fedper"}}
    told = advice([line(1), line(2, clients=clients)], config, COMMANDS)
    assert told is not None
    assert "client accuracy 70.7 % on 100 images of 5 clients cannot be told from" in told
    assert told.endswith(PRETRAINED)
    assert advice([line(1), line(2, clients=clients)], CONFIG, COMMANDS) is None, "the shared model's floor is 20 %"


def test_a_validation_loss_that_still_falls_wants_more_rounds() -> None:
    told = advice([line(1, validation=1.0), line(2, validation=0.9)], CONFIG, COMMANDS)
    assert told == (
        "the validation loss was still falling in the last round. "
        "Go on with: fedlens resume logs/run federated.num_rounds=4"
    )
    assert advice([line(1, validation=1.0), line(2, validation=0.995)], CONFIG, COMMANDS) is None
    stopped = {**CONFIG, "federated": {"num_rounds": 9}}
    assert advice([line(1, validation=1.0), line(2, validation=0.9)], stopped, COMMANDS) is None
