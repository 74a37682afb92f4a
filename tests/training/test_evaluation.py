from functools import partial

import numpy as np
import pytest
import torch
from tests.helpers import CPU, tiny_data, tiny_model
from torch import nn
from torch.nn import functional as F

from fedlens.core.records import Evaluation
from fedlens.models.base import Preprocessing, prepare
from fedlens.training.evaluation import auroc, confusion, evaluate
from fedlens.training.examples import Examples


def test_loss_and_counts_are_those_of_all_images() -> None:
    data, model = tiny_data(), tiny_model().eval()
    examples = Examples(data, data.test, partial(prepare, how=Preprocessing(8, 1)), CPU)
    rows = torch.from_numpy(data.test)
    logits = model(model.prepare(data.images[rows]))
    found = evaluate(model, examples, 3, batch_size=5)
    assert found.loss == pytest.approx(F.cross_entropy(logits, data.labels[rows]).item(), rel=1e-5)
    assert found.accuracy == pytest.approx((logits.argmax(1) == data.labels[rows]).float().mean().item())
    assert found.examples == len(data.test)


def test_confusion_counts_true_by_predicted() -> None:
    found = confusion(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 0]), 3)
    assert found.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_balanced_accuracy_leaves_absent_classes_out() -> None:
    # recalls 3/4 and 1/2; the third class does not occur
    found = Evaluation(0.1, np.array([[3, 1, 0], [1, 1, 0], [0, 0, 0]]))
    assert found.balanced_accuracy == pytest.approx(0.625)
    assert found.accuracy == pytest.approx(4 / 6)


def test_area_under_the_curve_for_two_classes() -> None:
    # scores of class 1: 0.9, 0.4, 0.6, 0.1 for labels 1, 1, 0, 0: 3 of 4 pairs are in order
    data = tiny_data(clients=1, per_client=4, classes=2)
    data.labels[torch.from_numpy(data.test[:4])] = torch.tensor([1, 1, 0, 0])
    scores = torch.tensor([0.9, 0.4, 0.6, 0.1])

    class Fixed(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.stack([torch.zeros(4), torch.logit(scores)], dim=1)

    examples = Examples(data, data.test[:4], partial(prepare, how=Preprocessing(8, 1)), CPU)
    assert evaluate(Fixed(), examples, 2, ranked=True).auroc == pytest.approx(0.75)


@pytest.mark.parametrize("seed", range(5))
def test_the_area_is_torchmetrics(seed: int) -> None:
    from torchmetrics.functional.classification import binary_auroc

    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (500,), generator=generator)
    scores = ((torch.rand(500, generator=generator) + 0.3 * labels) / 1.3).mul(20).round() / 20  # 21 values: many ties
    assert auroc(labels, scores) == pytest.approx(float(binary_auroc(scores, labels)), abs=1e-6)


def test_equal_scores_count_half() -> None:
    # pairs (0, 1): 0.2 < 0.5, 0.2 < 0.9, 0.5 = 0.5, 0.5 < 0.9: 3.5 of 4
    assert auroc(torch.tensor([0, 0, 1, 1]), torch.tensor([0.2, 0.5, 0.5, 0.9])) == 0.875
    assert auroc(torch.tensor([0, 1, 1]), torch.zeros(3)) == 0.5


def test_the_area_of_certain_answers_is_not_lost_to_rounding() -> None:
    # softmax gives both scores as 1.0; the logits still tell them apart
    assert auroc(torch.tensor([1, 0]), torch.tensor([40.0, 30.0])) == 1.0


def test_no_area_without_both_classes_or_with_nan() -> None:
    assert auroc(torch.tensor([1, 1]), torch.tensor([0.1, 0.2])) is None
    assert auroc(torch.tensor([1, 0]), torch.tensor([0.1, torch.nan])) is None
