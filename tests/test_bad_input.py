"""Bad input, through the command as users run it: what they read, and what the command leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.commands import CONFIGURATION, OTHER, SMALL, refused, refused_in_one_line
from tests.runs import numbers

import fedlens
from fedlens.aggregation.base import rules
from fedlens.errors import ConfigError
from fedlens.strategies.base import strategies
from fedlens.strategies.fedprox import FedProx
from fedlens.tracking.run_dir import find_runs

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


@pytest.mark.parametrize(
    ("line", "parts", "status"),
    [
        ("model.name=lenet model.freeze=5", ("model.freeze = 5", "use 1 to 4"), CONFIGURATION),
        ("model.name=lenet model.freeze=0", ("model.freeze = 0", "whole number from 1 to 10,000"), CONFIGURATION),
        ("model.name=lenet model.freeze=conv1", ("'conv1'", "such as backbone.dense1"), CONFIGURATION),
        ("model.name=cnn model.freeze=head", ("'head'", "use model.freeze=backbone"), CONFIGURATION),
        ("model.freeze=2 model.lora.rank=4", ("model.freeze = 2", "use model.freeze=none"), CONFIGURATION),
        ("model.lora.targets=[qkv]", ("model.lora.targets", "set model.lora.rank"), CONFIGURATION),
        (
            "model.name=lenet model.lora.rank=4 model.lora.targets=[qkv]",
            ("'qkv'", "[conv1,conv2,dense1,dense2]"),
            OTHER,
        ),
        ("transfer.layer_decay=2.6", ("transfer.layer_decay = 2.6", "at most 1"), CONFIGURATION),
        ("transfer.probe_rounds=2 transfer.unfreeze_every=1", ("transfer.probe_rounds", "use one of"), CONFIGURATION),
        (
            "federated.quorum=11",
            ("federated.quorum = 11", "a round has only 10 clients; use at most 10"),
            CONFIGURATION,
        ),
        ("model.freeze=backbone transfer.unfreeze_every=1", ("transfer.unfreeze_every", "freeze less"), CONFIGURATION),
    ],
)
def test_what_these_clients_and_this_model_cannot_do(line, parts, status):
    (message,) = [text for text in refused(f"run {line} data.source=sample", status) if "decoding" not in text]
    for part in parts:
        assert part in message


def test_one_learning_rate_for_strategies_that_count_on_it(monkeypatch):
    monkeypatch.setattr(FedProx, "needs_sgd", True)
    line = "run strategy.name=fedprox transfer.layer_decay=0.5"
    refused_in_one_line(line, "transfer.layer_decay = 0.5", "strategy fedprox counts on one learning rate")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("model.name=resnt18", ["model.name = 'resnt18'", "unknown model", "Did you mean resnet18?"]),
        ("--model mobilenet", ["model.name = 'mobilenet'", "Did you mean mobilenetv3?"]),
        ("strategy.name=fedpro", ["strategy.name = 'fedpro'", "unknown strategy", "Did you mean fedprox?"]),
        ("federated.num_round=3", ["federated.num_round = 3", "unknown key", "Did you mean federated.num_rounds?"]),
        ("strategy.name=fedadam strategy.beta=1", ["strategy.beta = 1", "unknown key", "Did you mean strategy.beta"]),
        ("federated.fraction=1", ["federated.fraction = 1", "Did you mean federated.fraction_fit or attack.fraction?"]),
        ("data.source=imagefoldr", ["data.source = 'imagefoldr'", "Did you mean imagefolder?"]),
        ("data.partition.scheme=dirichlt", ["data.partition.scheme = 'dirichlt'", "Did you mean dirichlet?"]),
        ("schedule.name=fedbuf", ["schedule.name = 'fedbuf'", "unknown schedule", "Did you mean fedbuff?"]),
        (
            "schedule.name=fedbuff schedule.max_staleness=0",
            ["schedule.max_staleness = 0", "1 to 1,000,000 or null"],
        ),
        (
            "schedule.name=fedbuff schedule.concurrency=5 schedule.buffer_size=6",
            ["schedule.buffer_size = 6", "only schedule.concurrency = 5 clients work at a time; use at most so many"],
        ),
        (
            "schedule.name=fedasync federated.over_selection=0.2",
            ["federated.over_selection = 0.2", "belongs to synchronous rounds; leave it out with schedule fedasync"],
        ),
        ("schedule.name=fedbuff federated.quorum=2", ["federated.quorum = 2", "belongs to synchronous rounds"]),
        (
            "schedule.name=fedasync schedule.staleness=linear",
            ["schedule.staleness = 'linear'", "constant, hinge, poly"],
        ),
        ("clock.name=half_normal clock.dropout=1", ["clock.dropout = 1", "at least 0 and below 1"]),
        ("clock.name=lognormal clock.sigma=1000", ["clock.sigma = 1000", "from 0 to 20"]),
        ("clock.name=half_normal clock.sigma=1", ["clock.sigma = 1", "half_normal has no such key", "lognormal"]),
        ("federated.fraction_fit=0", ["federated.fraction_fit = 0", "above 0 and at most 1"]),
        ("federated.fraction_fit=1.5", ["federated.fraction_fit = 1.5", "above 0 and at most 1"]),
    ],
)
def test_a_wrong_name_or_value(arguments: str, parts: list[str]) -> None:
    refused_in_one_line(f"run {arguments}", *parts, "(command line)")
    assert not Path("logs").exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("personalization.name=fedpr", ["personalization.name = 'fedpr'", "Did you mean fedper?"]),
        ("personalization.name=fedbn", ["personalization.name = 'fedbn'", "no normalisation layer"]),
        (
            "personalization.name=fedper personalization.head=hed.",
            ["personalization.head = 'hed.'", "they begin with backbone., head."],
        ),
        ("personalization.name=fedper model.freeze=backbone", ["personalization.head", "use model.freeze=none"]),
        ("personalization.name=ditto personalization.lam=-1", ["personalization.lam = -1", "of at least 0"]),
        (
            "personalization.name=fedala personalization.sample=2",
            ["personalization.sample = 2", "at most 1"],
        ),
        ("personalization.name=fedper personalization.lam=1", ["fedper has no such key, it is one of ditto, pfedme"]),
    ],
)
def test_a_personalisation_that_cannot_be(arguments: str, parts: list[str]) -> None:
    refused_in_one_line(f"run {SMALL} {arguments}", *parts)


@pytest.mark.parametrize("strategy", ["scaffold", "fednova", "qfedavg"])
def test_a_strategy_that_counts_on_sgd(strategy: str) -> None:
    line = f"run strategy.name={strategy}"
    refused_in_one_line(
        f"{line} optimizer.name=adamw", "optimizer.name = 'adamw'", f"strategy {strategy} counts on local steps of SGD"
    )
    refused_in_one_line(f"{line} optimizer.keep=true", "optimizer.keep = true", "momentum that starts at zero")


def test_moon_without_a_backbone_in_training() -> None:
    run = f"run {SMALL} strategy.name=moon model.freeze=backbone"
    refused_in_one_line(run, "strategy.name='moon'", "never changes: use model.freeze=none")
    refused_in_one_line(
        f"run {SMALL} strategy.name=moon personalization.name=lgfedavg", "use personalization.name=none"
    )
    own = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 3))
    with pytest.raises(ConfigError, match=r"strategy.name='moon': .*fedlens.models.base.Recognizer"):
        fedlens.run(None, "strategy.name=moon", show=False, model=own, data={"east": numbers(9), "west": numbers(9)})


def test_parameters_of_strategies_out_of_range() -> None:
    refused_in_one_line("run strategy.name=feddyn strategy.alpha=0", "strategy.alpha = 0", "above 0")
    refused_in_one_line("run strategy.name=qfedavg strategy.q=-1", "strategy.q = -1", "at least 0")
    refused_in_one_line("run strategy.name=moon strategy.temperature=0", "strategy.temperature = 0", "above 0")


def test_a_wrong_section() -> None:
    refused_in_one_line("run federate.num_rounds=3", "federate: unknown key. Did you mean federated?")


def test_several_mistakes_in_a_file_come_together() -> None:
    Path("mine.yaml").write_text(
        "model:\n  name: resnt18\nfederated:\n  fraction_fit: 1.5\n  num_round: 3\nstrategy:\n  name: fedpro\n"
    )
    lines = refused("run mine.yaml seed=-1", CONFIGURATION)
    assert len(lines) == 5
    for place, key in (
        ("mine.yaml, line 2", "model.name = 'resnt18'"),
        ("mine.yaml, line 4", "federated.fraction_fit = 1.5"),
        ("mine.yaml, line 5", "federated.num_round = 3"),
        ("mine.yaml, line 7", "strategy.name = 'fedpro'"),
        ("command line", "seed = -1"),
    ):
        (line,) = (line for line in lines if line.startswith(key))
        assert line.endswith(f"({place})")


def test_an_argument_longer_than_a_file_name_is_a_value() -> None:
    refused_in_one_line(f"run seed={'9' * 5000}", "a number of 5,000 digits")
    refused_in_one_line("run seed=\x01", "seed", "control character U+0001")


def test_a_file_that_is_no_yaml_is_named_with_line_and_column() -> None:
    Path("mine.yaml").write_text("model:\n  name: [lenet\nfederated:\n  num_rounds: 3\n")
    refused_in_one_line("run mine.yaml", "mine.yaml, line 3, column 10", "is not YAML")


def test_more_clients_asked_for_than_there_are() -> None:
    refused_in_one_line(
        f"run {SMALL} federated.min_fit_clients=11",
        "federated.min_fit_clients=11",
        "the data has 10 client",
        status=OTHER,
    )


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("aggregation.name=trimmed_mean aggregation.beta=0.5", ["aggregation.beta = 0.5", "at least 0 and below 0.5"]),
        ("aggregation.name=krum aggregation.f=4", ["aggregation.f = 4: krum needs 2 f + 3 = 11", "aggregation.f=3"]),
        ("aggregation.name=bulyan federated.fraction_fit=0.5", ["f = 1: bulyan needs 4 f + 3 = 7", "there are 5"]),
        ("aggregation.name=multikrum aggregation.m=11", ["aggregation.m = 11", "use aggregation.m=10 or less"]),
        ("attack.name=label_flp", ["attack.name = 'label_flp': unknown attack. Did you mean label_flip?"]),
        (
            "attack.name=label_flip attack.fraction=1",
            ["attack.fraction = 1: must be a number of at least 0 and below 1"],
        ),
        ("attack.name=label_flip attack.fraction=0.09", ["attack.fraction = 0.09: of 10 clients", "nobody attacks"]),
        ("attack.name=backdoor attack.target=10", ["attack.target = 10: the data has 10 classes, from 0 to 9"]),
        ("attack.name=scale attack.patch=28", ["attack.patch = 28: the images have 28 pixels"]),
        ("attack.name=gaussian attack.std=1e39", ["attack.std = 1e+39", "at most 1e+06"]),
    ],
)
def test_rules_that_cannot_bear_it_and_attacks_that_do_not_fit(arguments: str, parts: list[str]) -> None:
    lines = refused(f"run {SMALL} {arguments}", CONFIGURATION)
    message = lines[-1]  # before it there may be progress
    for part in parts:
        assert part in message
    assert not find_runs(Path("logs")) if Path("logs").exists() else True


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("attack.name=alie", ["attack.name = 'alie'", "simulations", "use attack.name=none"]),
        ("aggregation.name=krum", ["aggregation.f = 1: krum needs 2 f + 3 = 5", "federated.min_fit_clients"]),
    ],
)
def test_a_server_neither_attacks_nor_waits_for_too_few(arguments: str, parts: list[str]) -> None:
    refused_in_one_line(f"server {arguments}", *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("schedule.concurrency=11", ["schedule.concurrency = 11", "the data has 10 clients", "use at most 10"]),
        ("schedule.buffer_size=11", ["schedule.buffer_size = 11", "only 10 clients work at a time"]),
    ],
)
def test_more_clients_at_work_than_there_are(arguments: str, parts: list[str]) -> None:
    refused_in_one_line(f"run {SMALL} schedule.name=fedbuff {arguments}", *parts)
    assert find_runs(Path("logs")) == []


NEEDY = """
from dataclasses import dataclass
from fedlens.aggregation.mean import WeightedMean
from fedlens.aggregation.base import AggregationRule, rules
from fedlens.strategies.base import Strategy, strategies

@strategies.register("whole", summary="needs everybody")
@dataclass(frozen=True)
class Whole(Strategy):
    needs_cohort = True

@rules.register("ranked", summary="compares updates")
@dataclass(frozen=True)
class Ranked(AggregationRule):
    def aggregator(self, trainable):
        return WeightedMean()
"""


@pytest.mark.parametrize("schedule", ["fedasync", "fedbuff"])
@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("strategy.name=whole", ["strategy.name = 'whole'", "needs a whole cohort", "use schedule.name=sync"]),
        (
            "aggregation.name=ranked",
            ["aggregation.name = 'ranked'", "takes a whole round's updates", "use aggregation.name=mean"],
        ),
        ("attack.name=gaussian", ["attack.name = 'gaussian'", "makes a round's updates up together", "use label_flip"]),
    ],
)
def test_asynchronous_with_what_needs_the_whole_cohort(schedule: str, arguments: str, parts: list[str]) -> None:
    Path("needy.py").write_text(NEEDY)
    line = f"run {SMALL} plugins=[needy.py] schedule.name={schedule} {arguments}"
    try:
        refused_in_one_line(line, *parts, f"schedule {schedule} has ")
    finally:
        strategies._entries.pop("whole", None)
        rules._entries.pop("ranked", None)


def test_a_trace_that_lacks_clients() -> None:
    Path("times.csv").write_text("client,seconds\nclient1,2\n")
    line = f"run {SMALL} clock.name=trace clock.path=times.csv"
    refused_in_one_line(line, "clock.path: times.csv has no line for", "and 9 other client(s)", status=OTHER)
    refused_in_one_line(f"run {SMALL} clock.name=trace", "clock.path: is missing; trace needs it")
    refused_in_one_line(f"run {SMALL} clock.name=trace clock.path=gone.csv", "cannot be read", status=OTHER)
    assert find_runs(Path("logs")) == []


def test_a_clock_between_machines() -> None:
    refused_in_one_line(
        "server clock.name=half_normal server.address=127.0.0.1:8095", "clock.name = 'half_normal'", "for simulation"
    )
