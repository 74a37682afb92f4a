"""Names that mean training, validation and test, of folders and of splits in Hugging Face data sets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedlens.data.types import Split

SPLIT_WORDS: Mapping[Split, frozenset[str]] = {
    "train": frozenset(
        {
            *(
                "train",
                "training",
                "trn",
                "trainset",
                "traindata",
                "trainingset",
                "learn",
                "learning",
                "训练",
                "训练集",
            ),
            *("trainieren", "trainingsdaten", "entrenamiento", "entrenar", "treino", "treinamento", "entraînement"),
            *("entrainement", "apprentissage", "addestramento", "allenamento", "trening", "обучение", "тренировка"),
            *("訓練", "訓練集", "学習", "학습", "훈련", "eğitim", "opleiding"),
        }
    ),
    "val": frozenset(
        {
            *("val", "valid", "validation", "validate", "valset", "validset", "validationset", "验证", "验证集"),
            *("dev", "devel", "development", "eval", "evaluation", "validierung", "validación", "validacion"),
            *("validação", "validacao", "validazione", "walidacja", "валидация", "驗證", "驗證集", "検証", "검증"),
            *("doğrulama", "validatie"),
        }
    ),
    "test": frozenset(
        {
            *("test", "tests", "testing", "tst", "testset", "testdata", "holdout", "heldout", "unseen", "exam"),
            *("测试", "测试集", "testen", "testdaten", "prueba", "pruebas", "teste", "testes", "essai", "prova"),
            *("тест", "тестирование", "測試", "測試集", "テスト", "評価", "테스트", "시험"),
        }
    ),
}
"""Split → words for it in lower case, in English and the languages of many data sets."""

_SHORT: Mapping[str, Split] = {"tr": "train", "va": "val", "vl": "val", "te": "test", "ts": "test"}
"""Words that mean a split only if the names next to them do, too."""

_SPLIT_OF: Mapping[str, Split] = {word: split for split, words in SPLIT_WORDS.items() for word in words}
_TOKENS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\da-zA-Z_]+")


@dataclass(frozen=True)
class SplitName:
    """A name with one split word in it. `rest`: its other words, without numbers: ("seg",) of seg_train."""

    split: Split
    rest: tuple[str, ...]


def split_word(name: str) -> Split | None:
    """The split that `name` alone means, in any case; None if it is not a split word."""
    return _SPLIT_OF.get(name.strip().casefold())


def split_name(name: str) -> SplitName | None:
    """The split in a name such as Training, 01_train, seg_test, train2017 or TestSet; None if there is not
    exactly one."""
    if split := split_word(name):
        return SplitName(split, ())
    words = [word.casefold() for word in _TOKENS.findall(name)]
    found = [word for word in words if word in _SPLIT_OF]
    if len(found) != 1:
        return None
    return SplitName(_SPLIT_OF[found[0]], tuple(word for word in words if word != found[0] and not word.isdecimal()))


def _short(name: str) -> SplitName | None:
    split = _SHORT.get(name.casefold())
    return SplitName(split, ()) if split else None


def as_splits(names: Iterable[str]) -> dict[str, Split] | None:
    """Name → split, if all of `names` are names of splits that differ only in the split word; else None."""
    read = {name: split_name(name) or _short(name) for name in names}
    if not any(found is not None and found.split == "train" for found in read.values()):
        read = {name: split_name(name) for name in read}
    known = {name: found for name, found in read.items() if found is not None}
    if not known or len(known) < len(read) or len({found.rest for found in known.values()}) > 1:
        return None
    return {name: found.split for name, found in known.items()}
