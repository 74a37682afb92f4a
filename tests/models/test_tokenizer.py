"""The tokenizer that ships in the package, and the tool that trains it."""

from __future__ import annotations

import importlib.util
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from fedlens.data.product_texts import product_texts

TEXTS = [
    "Grey shirt, button front.",
    "grey cotton top, long sleeves. \N{FIRE}",
    "灰色的衬衫，灰色的外套。",
    *product_texts(np.arange(50) % 10),
]


@pytest.fixture(scope="module")
def tool():
    file = Path(__file__).parents[2] / "tools" / "build_tokenizer.py"
    spec = importlib.util.spec_from_file_location("build_tokenizer", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shipped():
    return Tokenizer.from_str(files("fedlens.models").joinpath("tokenizer.json").read_text(encoding="utf-8"))


def test_one_text_gives_one_file_that_reads_every_other_text(tool):
    once = tool.build(TEXTS, vocabulary=320)
    assert once == tool.build(TEXTS, vocabulary=320)
    trained = Tokenizer.from_str(once)
    assert trained.get_vocab_size() == 320
    assert len(trained.encode("ribbed").ids) < len("ribbed")  # it has learned parts of words
    assert trained.decode(trained.encode("каждый байт").ids) == " каждый байт"


def test_the_text_is_prose_in_two_languages_and_product_texts(tool):
    texts = tool.corpus()
    assert sum("federat" in text.lower() for text in texts) > 30
    assert sum("联邦" in text for text in texts) > 30
    assert sum(text.endswith("Free returns.") for text in texts) > 200
    assert not any("```" in text or "https://" in text for text in texts)


def test_the_shipped_file_is_small_and_of_the_tools_settings(tool, shipped):
    text = files("fedlens.models").joinpath("tokenizer.json").read_text(encoding="utf-8")
    assert len(text.encode()) < 300_000
    assert shipped.get_vocab_size() == tool.VOCABULARY == 4096
    assert shipped.token_to_id(tool.PADDING) == 0
    ours, built = json.loads(text), json.loads(tool.build(TEXTS, vocabulary=320))
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens", "truncation", "padding"):
        assert ours[part] == built[part], part


@pytest.mark.parametrize(
    "text", ["größe m, ärmellos", "黑色棉质上衣，适合夏天。", "قميص قطني", "\N{JEANS}\N{FIRE}", "a\tb\u200d"]
)
def test_every_text_comes_back_whole(shipped, text):
    found = shipped.encode(text)
    assert 0 not in found.ids  # padding is no token of a text
    assert shipped.decode(found.ids).removeprefix(" ") == text


def test_case_and_unicode_forms_are_one(shipped):
    forms = ("caf\u00e9", "CAFE\u0301", "Cafe\u0301")
    assert len({tuple(shipped.encode(form).ids) for form in forms}) == 1


def test_product_texts_are_few_tokens(shipped):
    """Nearly one a word: the vocabulary holds the words of such texts."""
    texts = product_texts(np.arange(1000) % 10, seed=99)
    words = sum(len(text.replace(".", " .").replace(",", " ,").replace("-", " - ").split()) for text in texts)
    tokens = sum(len(found.ids) for found in shipped.encode_batch(texts))
    assert tokens < 1.1 * words
