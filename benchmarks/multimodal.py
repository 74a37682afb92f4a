"""What texts beside images cost: a round, reading texts, and a search.

    .venv/bin/python benchmarks/multimodal.py

Rounds: the same clients, images and batches, with an image backbone alone, and with a text beside each image. The kinds
of runs take turns, and a ratio is taken within one turn. Without modality dropout every image is computed, as it is by
the backbone alone. The first rounds are left out, because kernels are made in them for each size of a batch.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import machine
import numpy as np
from fedlens_run import CONFIGS, FEDLENS, FedLensRun, spent
from startup import write_photographs

from fedlens.data.product_texts import product_texts
from fedlens.models.text_readers import FEW, Tokens
from fedlens.training.texts import read_each_once

CONFIG = CONFIGS / "multimodal.yaml"
FIRST = 4
"""Rounds that are left out."""

ALONE = "image alone"
KINDS = {
    ALONE: ("model.name={image}",),
    "with texts": ("model.name=fusion", "model.image={image}"),
    "with texts, no modality dropout": ("model.name=fusion", "model.image={image}", "model.modality_dropout=0"),
    "with sentence features": ("model.name=fusion", "model.image={image}", "model.text=minilm"),
}


def rounds(image: str, overrides: tuple[str, ...], count: int) -> float:
    """Median seconds of a round, the first ones left out."""
    chosen = [override.format(image=image) for override in overrides]
    with FedLensRun(CONFIG, f"federated.num_rounds={count + FIRST}", *chosen) as run:
        found = [spent(line) for _, line in run.rounds()]
    return median(found[FIRST:])


def turns(image: str, kinds: list[str], repetitions: int, count: int) -> dict[str, list[float]]:
    """Kind → seconds a round, turn by turn."""
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(repetitions):
        first = turn % len(kinds)
        for kind in kinds[first:] + kinds[:first]:
            seconds[kind].append(rounds(image, KINDS[kind], count))
    return seconds


def reading(count: int) -> float:
    """Seconds in which the tokenizer reads `count` texts."""
    texts = product_texts(np.arange(count) % 10)
    started = time.perf_counter()
    read_each_once(texts, Tokens(32), lambda *_: None)
    return time.perf_counter() - started


SENTENCES = """
from fedlens.models.text_readers import Sentences
Sentences().read([f"striped shirt {number}" for number in range(%d)], lambda *_: None)
"""


def sentences(count: int) -> float:
    """Seconds in which a new process reads so many sentences with the sentence encoder."""
    return seconds_of(sys.executable, "-c", SENTENCES % count)


def seconds_of(*command: str) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def asked(command: Sequence[str], texts: int) -> list[float]:
    """Seconds from a text to its answer, of one `fedlens search` that is given `texts` of them; that of the first, for
    which the model is loaded, is left out."""
    seconds = []
    with subprocess.Popen(
        [*command, "--text", "-", "--top", "1"], text=True, bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(texts + 1):
            started = time.perf_counter()
            print(f"striped shirt {number}", file=process.stdin)
            process.stdout.readline()
            seconds.append(time.perf_counter() - started)
        process.stdin.close()
    return seconds[1:]


def search(count: int, repetitions: int) -> dict[str, float]:
    """Seconds of the first `fedlens search` over `count` photographs; of later ones by a text and by a picture, which
    needs PyTorch; of PyTorch's import alone; and of one more text in the same process."""
    with tempfile.TemporaryDirectory(prefix="fedlens-search-") as name:
        photographs, logs = Path(name) / "photographs", Path(name) / "logs"
        photographs.mkdir()
        write_photographs(photographs, count)
        training = ("model.name=dual_encoder", "model.image=lenet", "federated.num_rounds=1")
        seconds_of(str(FEDLENS), "run", str(CONFIG), *training, f"tracking.dir={logs}", "data.image_size=28")
        command = (str(FEDLENS), "search", str(next(logs.iterdir())), str(photographs))
        text, picture = ("--text", "striped shirt"), ("--image", str(next(photographs.rglob("*.jpg"))))
        first = seconds_of(*command, *text)
        later = {
            "search_by_text_s": (*command, *text),
            "search_by_picture_s": (*command, *picture),
            "import_torch_s": (sys.executable, "-c", "import torch"),
        }
        seconds = [{what: seconds_of(*one) for what, one in later.items()} for _ in range(repetitions)]
        more = asked(command, texts=20)
    return {
        "search_first_s": first,
        **{what: median(turn[what] for turn in seconds) for what in later},
        "search_next_text_s": median(more),
    }


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--image", default="mobilenetv3", help="the image backbone")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS)[1:], default=list(KINDS)[1:], help="beside the first")
    parser.add_argument("--repetitions", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=6, help="rounds a run, after the first four")
    parser.add_argument("--rows", type=int, default=20_000, help="texts to read, and photographs to search")
    options, before = parser.parse_args(), machine.facts()
    if options.small:
        options.image, options.kinds = "lenet", ["with texts"]
        options.repetitions, options.rounds, options.rows = 1, 1, 100
    seconds = turns(options.image, [ALONE, *options.kinds], options.repetitions, options.rounds)
    figures: dict[str, object] = {
        "image": options.image,
        "rows": options.rows,
        "seconds_a_round": {kind: median(found) for kind, found in seconds.items()},
        "ratio": {
            kind: [mine / alone for mine, alone in zip(found, seconds[ALONE], strict=True)]
            for kind, found in seconds.items()
        },
        "reading_texts_s": reading(options.rows),
        "few_sentences_s": sentences(FEW),
        "one_sentence_more_s": sentences(FEW + 1),
        **search(options.rows, options.repetitions),
    }
    for name, value in figures.items():
        print(f"{name:32} {value}")
    print(machine.save("multimodal", before, figures, small=options.small))


if __name__ == "__main__":
    main()
