"""Each check on made-up rounds: it fires where it should, and is silent where a figure is just below its line."""

from __future__ import annotations

from typing import Any

import pytest
from tests.explain.rounds import (
    CLIENTS,
    COMMANDS,
    CONFIG,
    GUESSING,
    ONE_EACH,
    client,
    falling,
    line,
    names,
    partition,
    told,
)

from fedlens.explain.checks import CHECKS, findings
from fedlens.explain.evidence import Evidence
from fedlens.tracking.findings import problems

PRETRAINED = "fedlens run data.path=./data model.name=efficientnet_lite0 model.pretrained=true"


def cohort(before: float, after: float, **more: float) -> list[dict[str, Any]]:
    return [client(name, before, after, **more) for name in CLIENTS]


def test_a_healthy_run_is_told_nothing() -> None:
    assert names(falling()) == []
    assert names([]) == []


def test_diverging_clients_want_a_smaller_learning_rate() -> None:
    lost = [{"client": "c", "reason": "training diverged: the update or the loss is not finite"}] * 3
    metrics = [line(1, cohort=cohort(0.5, 0.5)[:2], failures=lost), *falling()[1:]]
    (finding,) = told(metrics)
    assert finding.name == "learning rate too high"
    assert "3 of 25 client updates diverged" in finding.evidence
    again = "fedlens run data.path=./data model.name=cnn model.norm=group"
    assert finding.commands(COMMANDS) == [f"{again} optimizer.lr=0.01", f"{again} optimizer.lr=0.001"]
    gone = [{"client": "c", "reason": "no answer"}]
    assert names([line(1, failures=gone), *falling()[1:]]) == []


@pytest.mark.parametrize("loss", [3.3e26, 5.0, None])
def test_so_does_a_loss_far_above_guessing(loss: float | None) -> None:
    """ln 4 = 1.39; three times that is 4.16. A loss that is not finite is null in the file."""
    found = told([*falling()[:5], line(6, train_loss=loss)], optimizer={"name": "adamw", "lr": 1000})
    assert found[0].name == "learning rate too high"
    assert "far above that of guessing (1.39)" in found[0].evidence
    assert found[0].commands(COMMANDS)[0].endswith("optimizer.lr=0.1")
    assert "learning rate too high" not in names([*falling()[:5], line(6, train_loss=4.1)])


def test_losses_that_nobody_tells_are_no_sign_of_divergence() -> None:
    """With secure aggregation clients tell seconds and bytes."""
    quiet = [{"client": "client1", "metrics": {"seconds": 1.0}}]
    assert names([*falling()[:5], line(6, validation=0.51, train_loss=None, cohort=quiet)]) == []


def test_a_round_that_changes_half_of_the_model_and_learns_nothing() -> None:
    """A step of 2.5 on a model of length 5."""
    metrics = [line(number, 0.25, GUESSING, update_norm=2.5 if number == 1 else 0.5) for number in range(1, 7)]
    for one in metrics[:1]:
        one["measures"]["diversity/updates"] = 0.04  # the updates are as long: ‖mean‖ = ½ / 0.2 = 2.5
    found = names(metrics)
    assert found[0] == "learning rate too high"
    assert "nothing learnt" in found


def test_slow_steps_and_agreement_want_a_larger_learning_rate() -> None:
    """A step of 0.01 on a model of length 5 is 0.2 %, a fifth of one percent; equal updates agree by 1."""
    slow = [line(n, 0.3, GUESSING - 0.01 * n, update_norm=0.01) for n in range(1, 7)]
    found = told(slow)
    assert found[0].name == "learning rate too low"
    assert found[0].strength == pytest.approx(5)
    assert found[0].commands(COMMANDS)[0].endswith("optimizer.lr=0.5")
    agreed = [line(n, 0.6, 1.2 - 0.1 * n, measures={"diversity/updates": 0.25}, update_norm=1.0) for n in range(1, 7)]
    assert "mean cosine 1.00" in told(agreed)[0].evidence
    assert "learning rate too low" not in names(falling(measures={"diversity/updates": 0.25}, update_norm=1.0))


def test_a_loss_that_still_falls_wants_more_rounds() -> None:
    even = [line(n, validation=1.2 - 0.1 * n) for n in range(1, 7)]
    (finding,) = told(even)
    assert (finding.name, finding.kind) == ("too few rounds", "symptom")
    assert finding.commands(COMMANDS) == ["fedlens resume logs/run federated.num_rounds=12"]
    assert names(even, federated={"num_rounds": 9}) == [], "a run that goes on"


def test_gradients_that_are_always_clipped() -> None:
    clipped = [line(n, 0.3, GUESSING, cohort=cohort(1.3, 1.3, clipped=1.0), update_norm=0.01) for n in range(1, 7)]
    found = told(clipped, optimizer={"name": "sgd", "lr": 0.1, "clip_norm": 0.01})
    assert found[0].name == "gradients clipped too much"
    assert found[0].commands(COMMANDS)[0].endswith("optimizer.clip_norm=0.1")
    assert names(falling(cohort=cohort(0.5, 0.5, clipped=1.0)), optimizer={"lr": 0.1, "clip_norm": 1.0}) == []


def test_a_server_that_steps_too_far() -> None:
    """Ten times the mean update, and the loss comes back from 0.3 to 1.0: not what images that differ do."""
    metrics = falling(update_norm=5.0, cohort=cohort(1.0, 0.3))
    found = told(metrics, strategy={"name": "fedavgm", "server_lr": 1.0, "server_momentum": 0.9})
    assert found[0].name == "server's step too long"
    assert "10 times as long" in found[0].evidence
    assert [one.rpartition(" ")[2] for one in found[0].commands(COMMANDS)] == [
        "strategy.server_momentum=0.45",
        "strategy.server_lr=0.1",
    ]
    assert names(falling(update_norm=5.0)) == [], "momentum that does no harm"


def test_label_skew_with_what_it_costs() -> None:
    """Of what clients know after training, ln 4 − 0.1, 0.9 is lost: 70 %."""
    found = told(falling(cohort=cohort(1.0, 0.1)), ONE_EACH)
    assert found[0].name == "label skew"
    assert "70% of what clients' models know is lost" in found[0].evidence
    assert "holds 1 of 4 classes (median), 100% of the way" in found[0].evidence
    assert names(falling(), ONE_EACH) == [], "unlike labels that do no harm"


def test_many_local_epochs_of_unlike_clients() -> None:
    federated = {"num_rounds": 6, "local_epochs": 20}
    found = told(falling(cohort=cohort(1.0, 0.1)), ONE_EACH, federated=federated)
    assert [one.name for one in found] == ["label skew", "too many local epochs"]
    assert found[1].commands(COMMANDS)[0].endswith("federated.local_epochs=5 federated.num_rounds=24")


def test_like_labels_do_not_explain_what_is_lost() -> None:
    """0.2 of ln 4 − 0.5, 22 %: images differ. Clients of a kind lose nothing."""
    found = told(falling(cohort=cohort(0.7, 0.5)))
    assert found[0].name == "feature skew"
    assert names(falling(cohort=cohort(0.55, 0.5))) == []


def test_compression_that_leaves_little() -> None:
    """Whole models would be 2 × 4 × 100 bytes a round; the clients send 4 × 4: six rounds of 0.16 models each."""
    metrics = [line(n, 0.3, GUESSING, measures={"traffic/whole_model": 800.0}, bytes_up=16) for n in range(1, 7)]
    found = told(metrics, compression={"name": "topk", "share": 0.001})
    assert found[0].name == "compressed too much"
    assert "have 96.0% of the bytes of one model" in found[0].evidence
    assert found[0].commands(COMMANDS)[0].endswith("compression.share=0.01")
    more = [{**one, "bytes_up": 17} for one in metrics]
    assert "compressed too much" not in names(more, compression={"name": "topk", "share": 0.001})
    learnt = falling(measures={"traffic/whole_model": 800.0}, bytes_up=16)
    assert names(learnt, compression={"name": "topk", "share": 0.001}) == []


def test_a_cohort_that_does_not_stand_for_all() -> None:
    """Half of the largest distance ¾; the accuracy jumps by 0.4, where 100 images explain 0.07."""
    swinging = [line(n, 0.5, 0.6, measures={"labels/cohort": 0.375}) for n in range(1, 7)]
    for number, one in enumerate(swinging):
        one["validation"] |= {"accuracy": 0.3 + 0.4 * (number % 2), "examples": 100}
    found = told(swinging)
    assert found[0].name == "cohort too small"
    assert "50% of the way" in found[0].evidence
    assert "cohort too small" not in names(falling(measures={"labels/cohort": 0.375}))
    assert "cohort too small" not in names([line(n, 0.3 + 0.4 * (n % 2), 0.6) for n in range(1, 7)])


def test_a_client_whose_labels_contradict_the_others() -> None:
    bad = [*cohort(0.5, 0.4)[:3], client("self_d", 3.0, 2.0)]
    found = told(falling(cohort=bad))
    assert found[0].name == "bad labels"
    assert "self_d (3)" in found[0].evidence
    assert set(found[0].curve) == {"self_d", "median client"}
    unlike = [*cohort(0.5, 0.4)[:3], client("d", 1.2, 0.5)]
    assert names(falling(cohort=unlike)) == [], "below guessing: images that are only harder"


def test_a_client_without_whom_the_model_is_better() -> None:
    """Two points a round, where the others bring half a point; of two rounds nothing is said."""
    usual = dict.fromkeys("abc", 0.005)
    (found,) = told(falling(contributions={**usual, "d": -0.02}))
    assert found.name == "clients that hurt"
    assert found.strength == pytest.approx(2)
    assert "in points of accuracy by: d (2); the median client changes it by 0.5" in found.evidence
    assert set(found.curve) == {"d", "median client"}
    assert names([*falling(2, contributions={**usual, "d": -0.02}), *falling()[2:]]) == []
    assert names(falling(contributions={**usual, "d": -0.009})) == [], "less than a point"
    swinging = falling()
    for number, one in enumerate(swinging):
        one["contributions"] = {**usual, "d": -0.02 + 0.04 * (-1) ** number}
    assert names(swinging) == [], "as often as not it helps"
    assert names(falling(contributions=dict.fromkeys("abcd", -0.02))) == [], "not all of them"


def test_harm_is_more_than_other_images_would_change() -> None:
    """Accuracy 0.9 on 100 validation images: √(0.09 / 100), three points."""
    usual, metrics = dict.fromkeys("abc", 0.005), falling()
    for one in metrics:
        one["validation"] |= {"examples": 100}
    assert names([{**one, "contributions": {**usual, "d": -0.029}} for one in metrics]) == []
    assert names([{**one, "contributions": {**usual, "d": -0.031}} for one in metrics]) == ["clients that hurt"]


def test_the_worst_clients_are_named_first() -> None:
    usual = dict.fromkeys("abcdefghijkl", 0.005)
    (found,) = told(falling(contributions={**usual, "x": -0.02, "y": -0.3, "z": -0.1, "v": -0.04}))
    assert "Look at the images and labels of y, z, v" in found.advice
    assert found.evidence.index("y (30)") < found.evidence.index("z (10)")


def test_a_client_whose_updates_outweigh_the_others() -> None:
    long = [*cohort(0.5, 0.5)[:3], client("d", update_norm=6.0)]
    assert names(falling(cohort=long)) == ["outlying updates"]
    assert names(falling(cohort=[*cohort(0.5, 0.5)[:3], client("d", update_norm=4.0)])) == []


def test_an_attack_against_a_mean() -> None:
    attack = {"name": "sign_flip", "fraction": 0.25}
    measures = {"attack/malicious": 0.25}
    ill = [line(n, 0.25, GUESSING, measures=measures) for n in range(1, 7)]
    assert names(ill, attack=attack)[0] == "attack without defence"
    assert "attack without defence" not in names(ill, attack=attack, aggregation={"name": "median"})
    assert names(falling(measures=measures), attack=attack) == [], "an attack that does no harm"


def test_clients_that_fail() -> None:
    lost = [{"client": "d", "reason": "dropped out"}]
    found = told(falling(cohort=cohort(0.5, 0.5)[:3], failures=lost))
    assert found[0].name == "clients fail"
    assert "most often d (6 times); the commonest reason: dropped out" in found[0].evidence


def test_rounds_that_wait_for_one_client() -> None:
    slow = [*cohort(0.5, 0.5, virtual_seconds=2.0)[:3], client("d", virtual_seconds=20.0)]
    (finding,) = told(falling(cohort=slow))
    assert (finding.name, finding.kind) == ("stragglers", "time")
    assert "10.0 times as long" in finding.evidence
    assert problems([finding], COMMANDS) == [], "what costs time is not told at the end of a run"
    busy = [*cohort(0.5, 0.5)[:3], client("d", seconds=20.0)]
    assert names(falling(cohort=busy)) == [], "clients of one machine wait for its cores"


def test_statistics_that_do_not_fit() -> None:
    """Well below guessing with the statistics of a batch, worse than guessing with those that were averaged."""
    metrics = [line(n, 0.25, 2.0, cohort=cohort(0.6, 0.6)) for n in range(1, 7)]
    assert names(metrics, tensors=lambda: ["bn.running_var"])[0] == "broken normalisation statistics"
    assert "broken normalisation statistics" not in names(metrics, tensors=lambda: ["conv.weight"])


def test_training_images_that_are_learnt_by_heart() -> None:
    rising = [line(n, validation=0.6 + 0.1 * n, cohort=cohort(0.1, 0.1)) for n in range(1, 7)]
    found = told(rising)
    assert found[0].name == "overfitting"
    assert "lowest in round 1 (0.70)" in found[0].evidence
    assert names(falling(cohort=cohort(0.1, 0.1))) == [], "a gap that does not grow"


def test_a_model_that_validation_has_chosen_too_well() -> None:
    """100 validation images, 90 % right; 70 % of 100 test images: 20 points, and a standard error of 5.5."""
    metrics = falling()
    for one in metrics:
        one["validation"] |= {"accuracy": 0.9, "examples": 100}
        one["test"] |= {"accuracy": 0.7}
    (finding,) = told(metrics)
    assert finding.name == "overfitting to validation"
    assert "90.0 % on 100 validation images and 70.0 % on test images" in finding.evidence
    for one in metrics:
        one["test"] |= {"accuracy": 0.75}
    assert names(metrics) == []


def test_classes_that_are_never_named() -> None:
    recalls = {"recalls": [0.9, 0.9, 0.9, 0.0]}
    metrics = falling()
    for one in metrics:
        one["test"] |= recalls
    found = told(metrics, [[10, 10, 10, 1]] * 4)
    assert (found[0].name, found[0].kind) == ("classes never predicted", "cause")
    assert "z (4 training images at 4 clients)" in found[0].evidence
    assert told(metrics)[0].kind == "symptom", "there are enough images: something else is wrong"


def test_own_models_that_are_worse_than_the_shared_one() -> None:
    clients = {"accuracy": 0.5, "shared_accuracy": 0.8, "examples": 400, "chance": 0.25, "own_majority": 0.3}
    assert names(falling(clients=clients), personalization={"name": "ditto"})[0] == "personalization does not pay"
    better = {**clients, "accuracy": 0.82}
    assert names(falling(clients=better), personalization={"name": "ditto"}) == []


@pytest.mark.parametrize(("accuracy", "verdict"), [(0.3, "is no better than"), (0.38, "cannot be told from")])
def test_no_better_than_without_learning_wants_pretrained_weights(accuracy: float, verdict: str) -> None:
    """Wilson's interval of 38 of 100 begins at 29.1 %, below the 30 % of the commonest class."""
    (finding,) = told([*falling()[:5], line(6, accuracy, 0.51)])
    assert finding.name == "nothing learnt"
    assert finding.evidence == (
        f"test accuracy {100 * accuracy:.1f} % on 100 images {verdict} naming one class without learning (30.0 %)"
    )
    assert finding.commands(COMMANDS) == [f"{PRETRAINED} model.freeze=backbone"]


def test_what_has_pretrained_weights_already_wants_more_rounds() -> None:
    (finding,) = told([*falling()[:5], line(6, 0.3, 0.51)], model={"name": "resnet50", "pretrained": True})
    assert finding.commands(COMMANDS) == ["fedlens resume logs/run federated.num_rounds=12"]


def test_personal_models_are_held_against_each_clients_own_class() -> None:
    """71 of 100 images right, where naming each client's commonest class gives 69: no proof of learning. Methods that
    tell head and body apart refuse a frozen backbone."""
    clients = {
        "accuracy": 0.707,
        "accuracy_over_examples": 0.71,
        "examples": 100,
        "evaluated": 5,
        "chance": 0.25,
        "majority": 0.3,
        "own_majority": 0.69,
    }
    (finding,) = told(falling(clients=clients), personalization={"name": "fedper"})
    assert "client accuracy 70.7 % on 100 images of 5 clients cannot be told from" in finding.evidence
    assert finding.commands(COMMANDS) == [PRETRAINED]
    assert names(falling(clients=clients)) == [], "the shared model's floor is 30 %"


def test_noise_that_drowns_what_is_learnt() -> None:
    privacy = {"mode": "central", "clip": 1.0}
    loud = [line(n, 0.25, GUESSING, measures={"privacy/noise": 6.0, "privacy/epsilon": 9.0}) for n in range(1, 7)]
    found = told(loud, privacy=privacy)
    assert found[0].name == "noise drowns the signal"
    assert found[0].strength == 2
    quiet = [line(n, 0.25, GUESSING, measures={"privacy/noise": 1.0, "privacy/epsilon": 9.0}) for n in range(1, 7)]
    assert "noise drowns the signal" not in names(quiet, privacy=privacy)


def test_a_clip_that_leaves_short_steps() -> None:
    """Six steps of at most 0.1 on a model of length 5 are 12 % of it; the update is 80 % as long as the clip."""
    metrics = [
        line(n, 0.25, GUESSING, measures={"privacy/noise": 0.6, "privacy/epsilon": 9.0}, update_norm=0.1)
        for n in range(1, 7)
    ]
    found = told(metrics, privacy={"mode": "central", "clip": 0.1})
    assert found[0].name == "privacy clip too low"
    assert "12.0% of its length at most, and the combined update is 80% as long" in found[0].evidence


def test_a_clip_that_never_bites() -> None:
    """The step 1.0001 is noise of 1.0 and an update of 0.0141."""
    metrics = falling(measures={"privacy/noise": 1.0, "privacy/epsilon": 9.0}, update_norm=1.0001)
    assert names(metrics, privacy={"mode": "central", "clip": 1.0}) == ["privacy clip too high"]
    adaptive = falling(measures={"privacy/noise": 1.0, "privacy/epsilon": 9.0, "privacy/clip": 1.0}, update_norm=1.0001)
    assert names(adaptive, privacy={"mode": "central", "clip": "adaptive"}) == []


def test_evaluation_that_takes_most_of_the_time() -> None:
    (finding,) = told(falling(seconds={"train": 5.0, "evaluate": 15.0}))
    assert (finding.name, finding.kind) == ("time spent elsewhere", "time")
    assert "1 min 30 s of 2 min" in finding.evidence
    assert names(falling(seconds={"train": 0.5, "evaluate": 1.5})) == [], "less than a minute in all"


def test_images_that_take_most_of_the_time() -> None:
    """Three quarters of 20 s a round are waited for images."""
    slow = falling(seconds={"train": 20.0}, cohort=cohort(0.5, 0.5, data_share=0.75))
    (finding,) = told(slow, data={"augment": "randaugment"})
    assert (finding.name, finding.kind) == ("time spent on data", "time")
    assert "spends 75% of its training on that, and training takes 2 min 0 s of 2 min 0 s" in finding.evidence
    assert finding.commands(COMMANDS)[0].endswith("data.augment=crop_flip")
    (finding,) = told(slow)
    assert "data.image_size" in finding.advice
    assert names(falling(seconds={"train": 20.0}, cohort=cohort(0.5, 0.5, data_share=0.4))) == []
    assert names(falling(seconds={"train": 2.0}, cohort=cohort(0.5, 0.5, data_share=0.75))) == []


def test_causes_come_before_symptoms_and_the_strongest_first() -> None:
    ill = [line(n, 0.25, GUESSING, cohort=cohort(1.0, 0.1), seconds={"evaluate": 60.0}) for n in range(1, 7)]
    found = told(ill, ONE_EACH)
    kinds = [one.kind for one in found]
    assert kinds == sorted(kinds, key=["cause", "symptom", "time"].index)
    causes = [one.strength for one in found if one.kind == "cause"]
    assert causes == sorted(causes, reverse=True)


def test_clients_that_share_nothing() -> None:
    """Each trains alone: nothing travels, so lengths are 0, and no client received what another knows."""
    alone = falling(measures={"norm/model": 0.0, "diversity/updates": None}, update_norm=0.0)
    for one in alone:
        one["cohort"] = [client(name, update_norm=0.0) for name in CLIENTS]
    assert names(alone, personalization={"name": "local"}) == []


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_run_of_one_round_and_no_figures_breaks_no_check(check) -> None:
    """As runs between sites whose server has no images, and of earlier versions, leave them."""
    bare = {"round": 1, "train_loss": None, "test": None, "validation": None, "clients": None, "cohort": []}
    assert check(Evidence(CONFIG, [{**bare, "failures": [], "seconds": {}}], {})) is None


def test_a_loss_that_only_falls_is_no_overfitting() -> None:
    falls = [line(n, validation=1.35 - 0.11 * n, cohort=cohort(0.3, 0.3)) for n in range(1, 7)]
    assert names(falls) == ["too few rounds"]


def test_updates_that_are_scaled_say_nothing_of_the_servers_step() -> None:
    """FedNova divides an update by its number of steps."""
    metrics = [line(n, 0.3, GUESSING, update_norm=0.01) for n in range(1, 7)]
    for one in metrics:
        one["cohort"] = [client(name, update_norm=0.0001) for name in CLIENTS]
    assert "server's step too long" in names(metrics)
    assert "server's step too long" not in names(metrics, strategy={"name": "fednova", "server_lr": 1.0})


def test_older_models_of_asynchronous_clients_are_not_what_was_lost() -> None:
    metrics = falling(cohort=cohort(0.95, 0.5))
    assert names(metrics) == ["feature skew"]
    assert names(metrics, schedule={"name": "fedbuff"}) == []


def test_a_server_that_steps_by_itself_hides_what_was_clipped() -> None:
    metrics = [
        line(n, 0.25, GUESSING, measures={"privacy/noise": 0.6, "privacy/epsilon": 9.0}, update_norm=0.5)
        for n in range(1, 7)
    ]
    assert "privacy clip too low" not in names(
        metrics, privacy={"mode": "central", "clip": 0.02}, strategy={"name": "fedadam"}
    )


def test_what_was_not_evaluated_is_not_called_unlearnt() -> None:
    bare = [line(n, validation=None, measures={"privacy/noise": 6.0}, update_norm=4.0) for n in range(1, 7)]
    for one in bare:
        one["test"] = None
    assert names(bare, privacy={"mode": "central", "clip": 1.0}) == []
    assert "learning rate too high" not in names(bare)


def test_diverged_updates_and_short_steps_are_not_both_told() -> None:
    lost = [{"client": "c", "reason": "training diverged: the update or the loss is not finite"}]
    metrics = [line(n, 0.6, 1.2 - 0.1 * n, measures={"diversity/updates": 0.25}, update_norm=1.0) for n in range(1, 7)]
    metrics[0]["failures"] = lost
    assert "learning rate too low" not in names(metrics)


def test_a_class_with_a_single_test_image_says_nothing() -> None:
    metrics = falling()
    for one in metrics:
        one["test"] |= {"recalls": [0.9, 0.9, 0.9, 0.0]}
    assert findings_of(metrics, test=[33, 33, 33, 1]) == []
    assert findings_of(metrics, test=[25, 25, 25, 25]) == ["classes never predicted"]


def findings_of(metrics, test: list[int]) -> list[str]:
    run = Evidence(CONFIG, metrics, {**partition(), "test": test})
    return [one.name for one in findings(run)]


def test_nulls_in_the_files_break_nothing() -> None:
    metrics = falling(seconds={"train": None, "evaluate": 0.1})
    for one in metrics:
        one["cohort"] = [{**client(name), "weight": None} for name in CLIENTS]
    assert names(metrics) == []


def test_private_runs_are_not_told_to_resume() -> None:
    even = [line(n, validation=1.2 - 0.1 * n, measures={"privacy/noise": 0.1}) for n in range(1, 7)]
    (finding,) = [one for one in told(even, privacy={"mode": "central", "clip": 1.0}) if one.name == "too few rounds"]
    assert finding.commands(COMMANDS) == []
    assert "cost more privacy" in finding.advice
