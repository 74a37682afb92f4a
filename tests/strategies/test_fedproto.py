"""FedProto's prototypes and term by hand, its training against the same done again, and where it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.helpers import tiny_model
from tests.problems import refuses
from tests.strategies.clients import local, moved, server, total_of
from tests.strategies.replay import DATA, Replay, close, settings
from tests.test_multimodal import settings as overrides
from tests.test_multimodal import table  # noqa: F401
from torch import nn
from torch.func import functional_call

import fedlens
from fedlens.build.load import load
from fedlens.strategies.base import ClassFeatures, ServerState, SharedModel
from fedlens.strategies.fedavg import FedAvg
from fedlens.strategies.fedproto import FedProto

A = ClassFeatures(torch.tensor([[2.0, 4.0], [0.0, 0.0]]), torch.tensor([2.0, 0.0]))
"""Two rows of class 0, whose mean is (1, 2)."""

B = ClassFeatures(torch.tensor([[4.0, 2.0], [3.0, 9.0]]), torch.tensor([1.0, 3.0]))
"""One row of class 0, three of class 1 with the mean (1, 3)."""

DUAL = ("model.name=dual_encoder", "federated.missing_modalities=average", "federated.local_epochs=1")


def after(state: ServerState, *clients: ClassFeatures) -> ServerState:
    contexts = [local(class_features=lambda one=one: one) for one in clients]
    return FedProto().step(state, total_of(FedProto(), [(ctx, moved(0.1)) for ctx in contexts]), server())


def test_a_prototype_is_the_mean_over_the_rows_of_all_clients() -> None:
    state = after(ServerState({"w": torch.ones(1), "s": torch.ones(1)}), A, B)
    # class 0: 2/3 · (1, 2) + 1/3 · (4, 2) = (2, 2); class 1: (1, 3)
    torch.testing.assert_close(state.extra["mean"], torch.tensor([[2.0, 2.0], [1.0, 3.0]]))
    assert state.extra["known"].tolist() == [1, 1]
    assert state.shared["w"].item() == pytest.approx(1.1)


def test_a_class_that_nobody_has_keeps_its_prototype() -> None:
    first = after(ServerState({}), A)
    assert first.extra["mean"].tolist() == [[1, 2], [0, 0]]
    assert first.extra["known"].tolist() == [1, 0]
    only_one = ClassFeatures(torch.tensor([[0.0, 0.0], [5.0, 1.0]]), torch.tensor([0.0, 1.0]))
    second = after(first, only_one)
    assert second.extra["mean"].tolist() == [[1, 2], [5, 1]]
    assert second.extra["known"].tolist() == [1, 1]


def test_the_term_is_the_mean_square_to_the_prototype_of_the_row_s_class() -> None:
    state = after(ServerState({}), A)
    sent = FedProto().broadcast(state, server())
    term = FedProto(mu=0.5).terms(local(received=sent)).features
    assert term is not None
    features = torch.tensor([[2.0, 4.0], [1.0, 1.0], [7.0, 7.0]], requires_grad=True)
    found = term(features, features, torch.tensor([0, 0, 1]))
    # (1² + 2²)/2 and (0² + 1²)/2; class 1 has no prototype: 0.5 · (2.5 + 0.5 + 0)/3
    assert found.item() == pytest.approx(0.5)
    found.backward()
    # 0.5 · 2 · difference / (3 rows · 2 features)
    torch.testing.assert_close(features.grad, torch.tensor([[1.0, 2.0], [0.0, -1.0], [0.0, 0.0]]) / 6)


def test_the_first_round_is_fedavg_and_clients_send_what_their_backbone_gives(tmp_path: Path) -> None:
    replay, how = Replay(FedProto(), tmp_path, settings()), settings()
    first = replay.train(1, replay.model)
    plain = Replay(FedAvg(), tmp_path / "plain", how).train(1, replay.model)
    assert all(torch.equal(value, plain.payload[name]) for name, value in first.payload.items())

    trained = tiny_model()
    trained.load_state_dict({name: replay.model[name] + delta for name, delta in first.payload.items()}, strict=False)
    trained.eval()
    rows = torch.as_tensor(DATA.clients[0].train)
    labels = torch.as_tensor(DATA.labels[rows])
    features = trained.backbone(replay.trainer._prepare(torch.as_tensor(DATA.images[rows])))
    for label in range(len(DATA.class_names)):
        torch.testing.assert_close(first.extra["prototypes/sums"][label], features[labels == label].sum(0))
    assert first.extra["prototypes/rows"].tolist() == labels.bincount(minlength=len(DATA.class_names)).tolist()


def test_later_rounds_add_the_term_to_the_shared_loop(tmp_path: Path) -> None:
    how = settings(momentum=0.9)
    replay = Replay(FedProto(mu=2.0), tmp_path, how)
    head = replay.model["head.weight"]
    means = torch.randn(head.shape, generator=torch.Generator().manual_seed(0))
    known = (torch.arange(len(head)) != 0).float()
    sent = {**replay.model, "prototypes/mean": means, "prototypes/known": known}

    def term(module, inputs, labels):
        aside = {name: value.clone() for name, value in module.backbone.named_buffers()}
        features = functional_call(module.backbone, aside, inputs)
        rows = [2.0 * (one - means[label]).square().mean() * known[label] for one, label in zip(features, labels)]  # noqa: B905
        return torch.stack(rows).mean()

    done = replay.train(1, sent)
    module, _ = replay.again(1, replay.model, term)
    final = module.state_dict()
    close({name: replay.model[name] + done.payload[name] for name in replay.model}, {n: final[n] for n in replay.model})


def test_what_it_cannot_work_with() -> None:
    assert FedProto().incompatibility(SharedModel(tiny_model())) is None
    assert "fedlens.models.base.Recognizer" in (FedProto().incompatibility(SharedModel(nn.Linear(2, 2))) or "")
    frozen = tiny_model()
    frozen.backbone.requires_grad_(False)
    assert "use model.freeze=none" in (FedProto().incompatibility(SharedModel(frozen)) or "")
    with refuses(("contradiction", "optimizer.mixup")):
        load(None, ["strategy.name=fedproto", "optimizer.mixup=0.2"])
    with refuses(("contradiction", "strategy.name")):
        load(None, ["strategy.name=fedproto", "privacy.mode=central", "privacy.noise_multiplier=1"])


def test_a_resumed_run_keeps_the_prototypes_also_of_a_dual_encoder(table: Path, tmp_path: Path) -> None:  # noqa: F811
    models = []
    for name, rounds in (("whole", 2), ("cut", 1)):
        given = overrides(table, tmp_path / name, *DUAL, f"federated.num_rounds={rounds}", "strategy.name=fedproto")
        run = fedlens.run(None, *given, show=False)
        models.append(run if rounds == 2 else fedlens.resume(run.folder, "federated.num_rounds=2", show=False))
    plain = fedlens.run(None, *overrides(table, tmp_path, *DUAL, "federated.num_rounds=2"), show=False)
    whole, resumed, without = (run.model.state_dict() for run in (*models, plain))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert any(not torch.equal(value, without[name]) for name, value in whole.items())
