"""`fedlens privacy plan` and `audit` on a terminal."""

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tests.commands import command, refused_in_one_line
from tests.docs.snippets import ROOT, blocks

from fedlens.build.load import load
from fedlens.config.load import dump
from fedlens.privacy import client_level

PLAN = "privacy plan privacy.mode=central model.name=lenet federated.num_rounds=40 federated.fraction_fit=0.1"


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def said(line: str) -> str:
    result = command(line)
    assert result.exit_code == 0, result.output
    return result.output


def test_tells_cost_noise_and_a_curve_in_80_columns() -> None:
    output = said(f"{PLAN} --clients 1000 privacy.budget=3")
    text = " ".join(output.split())
    assert "central, gaussian noise, poisson sampling" in text
    assert "1,000 may take part, 100 in a round on average" in text
    assert re.search(r"ε = 4\.\d+ at δ = 1e-05 after 40 rounds, by PLD", text)
    assert re.search(r"ε = 3: enough for \d+ of 40 rounds; for all of them use privacy.noise_multiplier=1\.\d+", text)
    assert "2.11 times as long as the mean update can be, over 44,426 shared parameters" in text  # √44,426 / 100
    assert "0.333 times as long as the sum of 40 rounds" in text  # 2.11 / √40
    assert max(map(len, output.splitlines())) <= 80
    assert output.count("█") > 100


def test_warns_of_a_delta_that_says_nothing() -> None:
    assert "privacy.delta = 0.02" in command(f"{PLAN} --clients 50 privacy.delta=0.02").stderr
    assert command(f"{PLAN} --clients 50").stderr == ""


def test_without_noise_there_is_no_curve() -> None:
    output = said(f"{PLAN} --clients 100 privacy.noise_multiplier=0")
    assert "ε = ∞" in output
    assert "█" not in output


def test_bad_input_is_one_line() -> None:
    refused_in_one_line("privacy plan model.name=lenet", "privacy.mode = 'none'", "privacy.mode=central")
    refused_in_one_line(f"{PLAN} --clients 10", "federated.fraction_fit", "1 clients on average")
    refused_in_one_line(f"{PLAN} --clients 100 privacy.budget=0.01", "privacy.budget", "one round alone costs")
    refused_in_one_line(f"{PLAN} privacy.noise=1", "privacy.noise")


def test_the_manual_shows_what_it_prints() -> None:
    """The page's example, without the curve that follows."""
    shown = {
        tuple(asked.commands[0]): printed.body
        for asked, printed in pairwise(blocks(ROOT / "docs" / "privacy.md"))
        if "privacy plan" in asked.body and printed.language == "text"
    }
    ((line, text),) = shown.items()
    assert said(shlex.join(line[1:])).startswith(text)


def a_run(folder: Path, keys: str) -> str:
    """A run's folder before its first round: what an audit reads."""
    run = folder / "logs" / f"run-{len(list(folder.glob('logs/*')))}"
    (run / "checkpoints").mkdir(parents=True)
    config = load(None, ["model.name=lenet", *keys.split()])
    (run / "config.yaml").write_text(dump(config))
    clients = {f"client-{number}": {"train": [300, 0]} for number in range(40)}
    (run / "partition.json").write_text(json.dumps({"class_names": ["a", "b"], "clients": clients, "test": [0, 0]}))
    return str(run)


def audited(run: str, draws: int = 40, status: int = 0) -> str:
    result = command(f"privacy audit {run} --draws {draws}")
    assert result.exit_code == status, result.output
    assert max(map(len, result.output.splitlines())) <= 80
    return " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("keys", "played", "claimed"),
    [
        ("central federated.fraction_fit=0.5", "central, gaussian, poisson played 40 times 1 round with", "3.53"),
        (
            "central privacy.sampling=cyclic privacy.mechanism=dp_ftrl federated.fraction_fit=0.5",
            "central, dp_ftrl, cyclic played 40 times 3 rounds with",
            r"1\.62",  # of 3 rounds of 10: a client has 2 of its 5 participations
        ),
        ("central privacy.noise_multiplier=0 federated.fraction_fit=0.5", "40 times 1 round with", "∞"),
        ("local privacy.insecure_seed=3", "local, fixed played 40 times 1 round with", "10"),  # σ / 2 = 0.5
        pytest.param(
            "example federated.batch_size=100",
            "40 times 1 round of 2 local steps with a canary",
            r"3\.93",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_an_audit_finds_no_contradiction(tmp_path: Path, keys: str, played: str, claimed: str) -> None:
    run = a_run(tmp_path, f"privacy.mode={keys}")
    before = sorted(tmp_path.rglob("*"))
    text = audited(run)
    assert played in text
    assert re.search(rf"claimed ε ≤ {claimed} at δ = 1e-05 for what was played, by (PLD|closed form)", text)
    assert re.search(r"shown ε ≥ [\d.]+ at δ = 1e-05, ", text)
    assert "verdict no contradiction" in text
    assert "it does not prove the claim" in text
    assert sorted(tmp_path.rglob("*")) == before, "the run itself stays untouched"


def test_an_audit_contradicts_too_little_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_level, "normal_from", lambda key: lambda like: torch.zeros(like.shape))
    cyclic = "privacy.mode=central privacy.sampling=cyclic federated.fraction_fit=0.5 privacy.noise_multiplier=3"
    run = a_run(tmp_path, cyclic)
    text = audited(run, draws=200, status=1)
    assert re.search(
        r"verdict CONTRADICTED at δ = [\de.-]+: ε is [\d.]+ at least, and [\d.]+ at most was claimed", text
    )


def test_an_audit_says_how_many_draws_it_takes(tmp_path: Path) -> None:
    keys = "privacy.mode=central privacy.sampling=cyclic federated.fraction_fit=0.5 privacy.noise_multiplier="
    (draws,) = re.findall("would not show with these draws: use --draws ([0-9]+)", audited(a_run(tmp_path, f"{keys}1")))
    assert 150 < int(draws) < 700  # 95 of 100 simulated audits with 300 draws find it
    assert "half the noise would contradict the claim with these draws" in audited(a_run(tmp_path, f"{keys}0.7"), 300)


def test_without_clipping_what_shows_grows_with_the_update(tmp_path: Path) -> None:
    plugin = tmp_path / "noise.py"
    plugin.write_text(
        "import numpy as np\n\ngenerator = np.random.default_rng(0)\n\n\ndef add_dp_noise(parameters, noise_scale):\n"
        "    return [p + generator.normal(0, noise_scale, p.shape).astype(p.dtype) for p in parameters]\n"
    )
    own = f"privacy.mode=own privacy.function=noise.add_dp_noise privacy.noise_scale=10 plugins=[{plugin}]"
    text = audited(a_run(tmp_path, own), 100)
    assert "claimed nothing length 1 ε ≥ 0 at δ = 1e-05" in text
    assert "length 100 ε ≥ 2.39 at δ = 1e-05, the most that 100 draws can show" in text
    assert "verdict no finite ε: what an update shows grows with its length" in text


def test_a_page_shows_both_worlds(tmp_path: Path) -> None:
    run, page = a_run(tmp_path, "privacy.mode=local"), tmp_path / "page.html"
    said(f"privacy audit {run} --draws 50 --plot {page}")
    text = page.read_text()
    assert "with the canary" in text
    assert "no contradiction" in text
    refused_in_one_line(f"privacy audit {run} --draws 50 --plot {tmp_path / 'no' / 'page.html'}", "--plot", "page.html")


def test_what_cannot_be_audited_is_one_line(tmp_path: Path) -> None:
    refused_in_one_line(f"privacy audit {a_run(tmp_path, '')}", "privacy.mode = 'none'", "nothing to audit")
    central = a_run(tmp_path, "privacy.mode=central federated.fraction_fit=0.5")
    refused_in_one_line(f"privacy audit {central} --draws 12", "--draws 12", "use 13 at least")
    (Path(central) / "partition.json").unlink()
    refused_in_one_line(f"privacy audit {central}", "has not begun")
    refused_in_one_line(f"privacy audit {tmp_path / 'nothing'}", "does not exist")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("a: 1\n")
    refused_in_one_line(f"privacy audit {tmp_path / 'other'}", "is no run")


@pytest.mark.parametrize(("name", "begins"), [("page.html", b"<!DOCTYPE html>"), ("picture.png", b"\x89PNG")])
def test_show_writes_a_page_or_a_picture(tmp_path: Path, name: str, begins: bytes) -> None:
    page = tmp_path / name
    output = said(f"privacy show model.name=lenet --images 1 --steps 1 --out {page}")
    assert output.splitlines()[-1] == f"Written: {page}"
    assert page.read_bytes().startswith(begins)
    assert "secure aggregation: one client" in output
    assert page.stat().st_size < 200_000


def test_bad_input_of_show_is_one_line(tmp_path: Path) -> None:
    refused_in_one_line("privacy show --out nowhere/page.html", "--out nowhere/page.html", "no such folder")
    refused_in_one_line(f"privacy show model.name=lenet --steps 1 --out {tmp_path}", "--out", "give another file")
    refused_in_one_line("privacy show data.path=nowhere", "nowhere", status=1)
