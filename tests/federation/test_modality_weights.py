"""A part of the model that learns from one modality is weighed by the rows that have it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.flower.answers import received
from tests.helpers import CPU, infos, tiny_data

from fedlens.compression.quantize import Quantize
from fedlens.core.client_store import ClientStore
from fedlens.core.types import ClientResult, Task, TaskSettings
from fedlens.data.types import FederatedData
from fedlens.flower.expectation import OWN_METRICS, expectation
from fedlens.models.base import ModelRequest, Preprocessing, Recognizer, prepare
from fedlens.models.build import build_model
from fedlens.models.fusion import PARTS, Fusion
from fedlens.personalization.fedper import FedPer
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.algorithm import Algorithm
from fedlens.training.client import ClientTrainer
from fedlens.training.flat import FlatModel
from fedlens.training.settings import LocalSettings
from fedlens.training.tasks.base import ServerView

SETTINGS = LocalSettings(batch_size=4)
IMAGE, TEXT = PARTS
ALGORITHM = Algorithm(FedAvg(), parts=PARTS)


def model() -> Recognizer:
    return build_model(Fusion(image="lenet", width=8, max_tokens=4), ModelRequest(3, 16, 1), seed=1)


def data() -> FederatedData:
    """client0 has images alone, client1 texts alone, client2 a third of its rows without a text, client3 everything."""
    plain = tiny_data(clients=4)
    has_image, has_text = torch.ones(2, len(plain.labels), dtype=torch.bool)
    has_text[plain.clients[0].train] = False
    has_image[plain.clients[1].train] = False
    has_text[plain.clients[2].train[:4]] = False
    images = torch.from_numpy(np.kron(plain.images.numpy(), np.ones((1, 2, 2, 1), np.uint8)))
    tokens = (plain.labels[:, None] + 1 + torch.zeros(4)).to(torch.int32)
    return replace(plain, images=images, has_image=has_image, has_text=has_text, text_inputs=tokens)


def trainer(folder: Path, algorithm: Algorithm = ALGORITHM) -> ClientTrainer:
    how = Preprocessing(16, 1)
    return ClientTrainer(
        FlatModel(model(), CPU), data(), algorithm, SETTINGS, ClientStore(folder), lambda images: prepare(images, how)
    )


def trained(one: ClientTrainer, client: str) -> ClientResult:
    shared = {name: value for name, value in one.model.state().items() if name in one.shared}
    found = one.run(Task(client, 1, "train", shared, TaskSettings(lr=0.1)))
    assert isinstance(found, ClientResult)
    return found


@pytest.mark.parametrize(
    ("client", "images", "texts"), [("client0", 12, 0), ("client1", 0, 12), ("client2", 12, 8), ("client3", 12, 12)]
)
def test_rows_of_a_modality_are_the_weight_of_its_part(client: str, images: int, texts: int, tmp_path: Path) -> None:
    found = trained(trainer(tmp_path), client)
    assert found.report.part_weights == pytest.approx({IMAGE: images, TEXT: texts})
    assert found.report.weight == 12
    for part, rows in ((IMAGE, images), (TEXT, texts)):
        moved = [bool(value.any()) for name, value in found.payload.items() if name.startswith(f"{part}.")]
        assert any(moved) is bool(rows), part


def test_without_texts_a_client_leaves_the_text_part_to_the_others(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    results = [trained(one, client) for client in ("client0", "client3")]
    by_part, blind = (trainer(tmp_path, Algorithm(FedAvg(), parts=parts)).partial_sum(1, {}) for parts in (PARTS, {}))
    for result in results:
        by_part.add(result)
        blind.add(replace(result, report=replace(result.report, part_weights={})))
    weighed, alike = by_part.result(), blind.result()
    assert weighed is not None
    assert alike is not None
    name = f"{TEXT}.project.0.weight"
    torch.testing.assert_close(weighed.delta[name], results[1].payload[name])
    torch.testing.assert_close(alike.delta[name], results[1].payload[name] / 2)
    torch.testing.assert_close(weighed.delta["head.weight"], alike.delta["head.weight"])


@pytest.mark.parametrize("encoded", [False, True])
def test_a_server_expects_these_weights(encoded: bool, tmp_path: Path) -> None:
    algorithm = replace(ALGORITHM, encodings=(Quantize(),)) if encoded else ALGORITHM
    one = trainer(tmp_path, algorithm)
    shared = one.model.state()
    view = ServerView(one.model, shared, algorithm, SETTINGS, 3, OWN_METRICS)
    task = Task("client2", 1, "train", shared, TaskSettings(lr=0.1))
    sent = one.run(task)
    assert isinstance(sent, ClientResult)
    expected = expectation(view)(task, infos(data())[2])
    assert received(sent, expected, task).report.part_weights == pytest.approx({IMAGE: 12, TEXT: 8})


def test_a_text_part_that_stays_at_home_has_no_weight(tmp_path: Path) -> None:
    found = trained(trainer(tmp_path, replace(ALGORITHM, personalization=FedPer(head=TEXT))), "client3")
    assert found.report.part_weights == {IMAGE: 12}
    assert not any(name.startswith(f"{TEXT}.") for name in found.payload)
