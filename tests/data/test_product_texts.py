"""What the texts of the sample tell about the classes, and what they do not."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedlens.data.product_texts import product_texts
from fedlens.data.sources.fashion_mnist import CLASS_NAMES
from fedlens.data.sources.sample import Sample

TOPS = [CLASS_NAMES.index(name) for name in ("T-shirt/top", "Pullover", "Coat", "Shirt")]
SHOES = [CLASS_NAMES.index(name) for name in ("Sandal", "Sneaker", "Ankle boot")]


@pytest.fixture(scope="module")
def table():
    return Sample().load()


def bag_of_words(texts, training):
    """(N, words) whether a text has a word of the training texts."""
    words = [set(re.findall(r"[\w-]+", text.lower())) for text in texts]
    column = {word: number for number, word in enumerate(sorted(set().union(*(words[row] for row in training))))}
    found = torch.zeros(len(texts), len(column))
    for row, said in enumerate(words):
        found[row, [column[word] for word in said if word in column]] = 1
    return found


def recalls(inputs, table):
    """(classes,) on the test rows, of a softmax regression that was trained on the training rows."""
    training, test = (np.flatnonzero(table.split == split) for split in ("train", "test"))
    labels = torch.tensor(table.labels)
    weight = torch.zeros(inputs.shape[1] + 1, len(CLASS_NAMES), requires_grad=True)
    logits = lambda rows: inputs[rows] @ weight[1:] + weight[0]  # noqa: E731
    optimizer = torch.optim.LBFGS([weight], max_iter=25, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = F.cross_entropy(logits(training), labels[training]) + 3e-4 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    right = (logits(test).argmax(dim=1) == labels[test]).float()
    return torch.stack([right[labels[test] == label].mean() for label in range(len(CLASS_NAMES))])


def test_texts_tell_something_pictures_tell_something_else_and_both_tell_more(table):
    """The bounds were set before the texts were written."""
    texts = bag_of_words(table.texts, np.flatnonzero(table.split == "train"))
    images = F.avg_pool2d(torch.tensor(table.images[..., 0]) / 255, 2).flatten(1)

    by_text, by_image = recalls(texts, table), recalls(images, table)
    by_both = recalls(torch.cat([texts, images], dim=1), table)

    assert 0.60 <= by_text.mean() <= 0.75
    assert by_both.mean() > by_image.mean() + 0.05
    assert by_text[TOPS].mean() > by_image[TOPS].mean() > by_text[SHOES].mean()
    assert by_image[SHOES].mean() > by_text[SHOES].mean() + 0.2


def test_a_class_name_stands_in_few_texts(table):
    named = [any(name.lower() in text.lower() for name in CLASS_NAMES) for text in table.texts]
    assert 0.01 < np.mean(named) < 0.05


def test_texts_are_short_listings_and_none_is_empty(table):
    assert len(table.texts) == 6000
    assert all(re.fullmatch(r"[A-Z][\w ,-]+\.( [A-Z][\w -]+\.)*", text) for text in table.texts)
    words = [len(text.split()) for text in table.texts]
    assert 600 < sum(count <= 3 for count in words) < 1500
    assert max(words) <= 30
    assert len(set(table.texts)) > 5000


def test_a_text_depends_on_its_row_label_and_seed_alone():
    labels = np.arange(200) % 10
    texts = product_texts(labels)
    changed = labels.copy()
    changed[100:] = 0

    assert product_texts(labels) == texts
    assert product_texts(labels[:50]) == texts[:50]
    assert product_texts(changed)[:100] == texts[:100]
    assert product_texts(changed)[100:] != texts[100:]
    assert product_texts(labels, seed=1) != texts
