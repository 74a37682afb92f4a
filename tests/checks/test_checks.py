"""`fedlens check` passes what works, and names what is broken on purpose."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.commands import command, refused_in_one_line
from tests.docs.snippets import ROOT, blocks

from fedlens.checks.contracts import Broken, table_is_whole
from fedlens.checks.trials import Trial, checks_of
from fedlens.cli.check import blocks_of
from fedlens.config.blocks import FAMILIES
from fedlens.data.base import sources
from fedlens.data.types import ImageTable

PAGE = {block.title: block.body for block in blocks(ROOT / "docs" / "extending.md") if block.title}
BITS, RESUME, WORKERS = (
    "the same seed gives the same bits",
    "two rounds are one round and a resume",
    "two worker processes train as one",
)
SERVER = "a server between machines takes what clients send"
SHAPES = "shapes, and first weights from the seed"
RULE = "order of arrival does not matter, updates stay as they are"
TABLE = "every image has a class; the same images again"
DEALT = "every image to one client at most; the same division again"

STRATEGY = """
from dataclasses import dataclass
import torch
from fedlens.strategies.base import ClientUpdate, LocalTerms, ServerState, Strategy, add, strategies

@strategies.register("broken", summary="broken on purpose")
@dataclass
class Broken(Strategy):
"""
MODEL = """
from dataclasses import dataclass
import torch
from torch import nn
from fedlens.models.base import ModelBuilder, Preprocessing, Recognizer, models

@models.register("broken", summary="broken on purpose")
@dataclass(frozen=True)
class Broken(ModelBuilder):
    default_image_size = 28
    def build(self, request):
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
        size = 4 * request.image_channels
        how = Preprocessing(request.image_size, request.image_channels)
"""
RULES = """
from dataclasses import dataclass
from fedlens.aggregation.base import rules
from fedlens.aggregation.gathered import GatheringRule

@rules.register("broken", summary="broken on purpose")
@dataclass(frozen=True)
class Broken(GatheringRule):
    def combine(self, updates):
"""
DATA = """
from dataclasses import dataclass
import numpy as np
from fedlens.data.base import Scheme, Source, schemes, sources
from fedlens.data.types import ImageTable

"""
SCHEME = f"""{DATA}
@schemes.register("broken", summary="broken on purpose")
@dataclass(frozen=True)
class Broken(Scheme):
    def assign(self, rows):
        half = len(rows.labels) // 2
"""
SOURCE = f"""{DATA}
@sources.register("broken", summary="broken on purpose")
@dataclass(frozen=True)
class Broken(Source):
    def load(self):
        labels = np.arange(40) % 2
        images = np.zeros((40, 28, 28, 1), np.uint8)
"""


@pytest.fixture(autouse=True)
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a plugin registers is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    for family in FAMILIES.values():
        family.registry.names()
        monkeypatch.setattr(family.registry, "_entries", dict(family.registry._entries))
    yield
    for name in [name for name in sys.modules if name.startswith("fedlens_plugin_")]:
        del sys.modules[name]


def trial(body: str, *keys: str) -> Trial:
    file = Path("own.py").resolve()
    file.write_text(body)
    ((family, entry),) = blocks_of(file)
    return Trial(family, entry, file, keys, Path("runs"))


@pytest.mark.parametrize(
    ("body", "check", "reason"),
    [
        (  # the object remembers how many rounds there were
            f"""{STRATEGY}
    def step(self, state, total, ctx):
        self.times = getattr(self, "times", 0) + 1
        return ServerState(add(state.shared, {{name: d / self.times for name, d in total.delta.items()}}))
""",
            RESUME,
            "what is needed later belongs into the state that the hooks return",
        ),
        (  # chance that the run's seed does not know
            f"""{STRATEGY}
    def finish(self, ctx, delta):
        import random
        return ClientUpdate({{name: d * random.random() for name, d in delta.items()}}, weight=float(ctx.examples))
""",
            BITS,
            "draw chance only from fedlens.core.seeds.derive",
        ),
        (  # the server's half looks at what the clients' half has put aside in this process
            f"""{STRATEGY}
    def finish(self, ctx, delta):
        self.seen = getattr(self, "seen", 0) + 1
        return ClientUpdate(delta, weight=float(ctx.examples))
    def step(self, state, total, ctx):
        scale = 1.0 / (1 + getattr(self, "seen", 0))
        return ServerState(add(state.shared, {{name: d * scale for name, d in total.delta.items()}}))
""",
            WORKERS,
            "what clients and server need of each other has to be sent",
        ),
        (
            f"""{STRATEGY}
    def finish(self, ctx, delta):
        return ClientUpdate(delta, weight=1.0)
""",
            SERVER,
            "needs_own_weights = True",
        ),
        (f"{MODEL}        return Recognizer(pool, nn.Linear(size, 3), how)\n", SHAPES, "use request.num_classes"),
        (
            f"{MODEL}        return Recognizer(pool, nn.Linear(4, request.num_classes), how)\n",
            SHAPES,
            "the backbone gives (2, 12) for 2 images, and the head takes (2, 4)",
        ),
        (
            f"{MODEL}        head = nn.Sequential(nn.Linear(size, request.num_classes))\n"
            "        return Recognizer(pool, head, how)\n",
            SHAPES,
            "the head is Sequential: it has to be nn.Linear",
        ),
        (
            f"{MODEL}        head = nn.Linear(size, request.num_classes)\n"
            "        import random; head.bias.data.fill_(random.random())\n"
            "        return Recognizer(pool, head, how)\n",
            SHAPES,
            "head.bias differs in a second model of the same seed",
        ),
        (f"{RULES}        return dict(updates.states[0])\n", RULE, "depends on the order in which updates arrive"),
        (
            f"{RULES}        states = updates.states\n"
            "        return {name: sum(one[name].mul_(0.5) for one in states) for name in states[0]}\n",
            RULE,
            "it changes the updates that it is given",
        ),
        (
            f"{SCHEME}        return {{'a': np.arange(half + 1), 'b': np.arange(half, 2 * half)}}\n",
            DEALT,
            "assign gives one image to two clients",
        ),
        (
            f"{SCHEME}        rows = np.random.default_rng().permutation(2 * half)\n"
            "        return {'a': rows[:half], 'b': rows[half:]}\n",
            DEALT,
            "deals in another way at a second call",
        ),
        (f"{SCHEME}        return {{'a': np.arange(9999)}}\n", DEALT, "positions from 0 to 239"),
        (
            f"{SOURCE}        images += np.random.default_rng().integers(0, 9, images.shape, np.uint8)\n"
            "        return ImageTable(images, labels, ('a', 'b'), channels=1)\n",
            TABLE,
            "load gives other images at a second call",
        ),
        (
            f"{SOURCE}        return ImageTable(images, labels, ('a',), channels=1)\n",
            TABLE,
            "labels have to be indexes",
        ),
        (f"{SOURCE}        return ImageTable(images[:9], labels, ('a', 'b'))\n", TABLE, "9 images and 40 labels"),
    ],
)
def test_what_is_broken_is_named_with_the_way_out(body: str, check: str, reason: str) -> None:
    with pytest.raises(Broken) as caught:
        checks_of(trial(body))[check]()
    assert reason in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_client_that_fails_is_no_training() -> None:
    body = f"{STRATEGY}    def terms(self, ctx):\n        return LocalTerms(correction=lambda p: p * float('nan'))\n"
    with pytest.raises(Exception, match=r"diverged|client"):
        checks_of(trial(body))["trains"]()


def test_the_sample_is_a_whole_table() -> None:
    sample = sources.get("sample").build({})
    table_is_whole(sample.load(), sample.load())
    with pytest.raises(Broken, match="2 clients and 3 labels"):
        images, labels = np.zeros((3, 4, 4, 1), np.uint8), np.zeros(3, np.int64)
        table_is_whole(*[ImageTable(images, labels, ("a",), clients=np.array(["x", "y"]))] * 2)


def test_one_line_for_each_check_and_the_exit_status() -> None:
    Path("good.py").write_text(PAGE["my_model.py"])
    result = command("check good.py model.cells=2")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "model.name = colours",
        *(f"  ok    {name}" for name in (SHAPES, "trains", BITS, RESUME, WORKERS)),
    ]
    Path("bad.py").write_text(f"{RULES}        return dict(updates.states[0])\n")
    result = command("check bad.py")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[:2] == [
        "aggregation.name = broken",
        f"  FAIL  {RULE}: layer depends on the order in which updates arrive, which differs from run to run",
    ]
    assert result.stdout.splitlines()[-1].endswith("failed.")
    assert sorted(path.name for path in Path().iterdir()) == ["bad.py", "good.py"]


def test_the_line_that_the_manual_shows() -> None:
    assert command("new strategy bright_idea").exit_code == 0
    (line,) = (
        line for line in (ROOT / "docs" / "extending.md").read_text().splitlines() if line.startswith("fedlens ch")
    )
    result = command(line.removeprefix("fedlens "))
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("strategy.name = bright_idea\n")


def test_what_cannot_be_checked_is_one_line() -> None:
    refused_in_one_line("check nothing.py", "nothing.py is no file")
    Path("empty.py").write_text("import fedlens\n")
    refused_in_one_line("check empty.py", "empty.py: registers no block that a configuration chooses")
    Path("wrong.py").write_text("import nothing_of_this_name\n")
    refused_in_one_line("check wrong.py", "wrong.py, line 1: ModuleNotFoundError")
    Path("arrays.py").write_text(PAGE["my_arrays.py"])
    refused_in_one_line("check arrays.py", "data.path: is missing; arrays needs it")
    Path("model.py").write_text(PAGE["my_model.py"])
    refused_in_one_line("check model.py model.cell=3", "model.cell")


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted(name for name in PAGE if name.endswith(".py")))
def test_the_blocks_of_the_manual_pass(file: str) -> None:
    for name, body in PAGE.items():
        Path(name).write_text(body)
    if file == "my_task.py":
        refused_in_one_line(f"check {file}", "registers no block that a configuration chooses")
        return
    np.savez(
        "set.npz", images=np.random.default_rng(0).integers(0, 255, (90, 28, 28, 3), np.uint8), labels=np.arange(90) % 3
    )
    more = {"my_arrays.py": "data.path=set.npz", "my_rounds.py": "'plugins=[my_task.py, my_rounds.py]'"}
    result = command(f"check {file} {more.get(file, '')}")
    assert result.exit_code == 0, result.output
