"""What each rule of aggregation bears: accuracy of every rule under every attack, the table of docs/robustness.md.

    .venv/bin/python benchmarks/robustness.py --picture docs/images/robustness.png
    .venv/bin/python benchmarks/robustness.py --rules mean median --attacks none alie --rounds 2

20 clients of 200 sample images each, of which 4 lie: see configs/robustness.yaml. Every run has the same data, first
model and malicious clients. Printed is the test accuracy after the last round, and for backdoors the share of patched
test images of other classes that are taken for the target. A run whose every update was not finite has diverged.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import machine

import fedlens
from fedlens.errors import TrainingDiverged
from fedlens.tracking.metrics import read_metrics

CONFIG = Path(__file__).parent / "configs" / "robustness.yaml"

RULES = {
    "mean": (),
    "median": (),
    "trimmed_mean": ("beta=0.2",),
    "geometric_median": (),
    "krum": ("f=4",),
    "multikrum": ("f=4",),
    "bulyan": ("f=4",),
    "norm_bound": ("bound=0.8",),
    "centered_clip": ("tau=0.5",),
}
"""With their keys under `aggregation`. Honest updates are 0.5 to 1.1 long here, and about as far from each other."""

ATTACKS = {
    "none": (),
    "label_flip": (),
    "sign_flip": ("factor=4",),
    "gaussian": ("std=1",),
    "alie": ("z=1.5",),
    "backdoor": (),
    "scale": (),
}
"""With their keys under `attack`. z_max of 4 among 20 is 0.16, which does nothing; 1.5 is that of nearly a half."""


def outcome(rule: str, attack: str, folder: Path, *overrides: str) -> dict[str, float | None]:
    """Test accuracy and success of the last round; no accuracy when the run diverged."""
    chosen = (
        *(f"aggregation.{key}" for key in (f"name={rule}", *RULES[rule])),
        *(f"attack.{key}" for key in (f"name={attack}", *ATTACKS[attack])),
    )
    started = time.perf_counter()
    try:
        run = fedlens.run(CONFIG, *chosen, f"tracking.dir={folder}", *overrides, show=False)
    except TrainingDiverged:
        return {"accuracy": None, "success": None, "seconds": time.perf_counter() - started}
    last = read_metrics(run.folder / "metrics.jsonl")[-1]
    return {
        "accuracy": last["test"]["accuracy"],
        "success": last["measures"].get("attack/success"),
        "seconds": time.perf_counter() - started,
    }


def cell(found: dict[str, float | None]) -> str:
    if found["accuracy"] is None:
        return "diverged"
    text = f"{100 * found['accuracy']:.1f}"
    return text if found["success"] is None else f"{text} ({100 * found['success']:.0f})"


def markdown(results: dict[str, dict[str, Any]], attacks: list[str]) -> str:
    """A row a rule, a column an attack."""
    rows = [["rule", *(f"`{attack}`" for attack in attacks)], ["---"] * (len(attacks) + 1)]
    rows += [[f"`{rule}`", *(cell(found[attack]) for attack in attacks)] for rule, found in results.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def picture(results: dict[str, dict[str, Any]], attacks: list[str], path: Path) -> None:
    """The table as colours: accuracy of every rule (rows) under every attack (columns)."""
    from matplotlib import pyplot

    shares = [[results[rule][attack]["accuracy"] for attack in attacks] for rule in results]
    figure, axes = pyplot.subplots(figsize=(1.1 * len(attacks) + 2, 0.5 * len(results) + 1.2), layout="constrained")
    percents = [[float("nan") if share is None else 100 * share for share in row] for row in shares]
    axes.imshow(percents, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(attacks)), attacks)
    axes.set_yticks(range(len(results)), results)
    for row, rule in enumerate(results):
        for column, attack in enumerate(attacks):
            value = percents[row][column]
            colour = "white" if value < 50 else "black"
            text = cell(results[rule][attack]).replace(" (", "\n(")
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    axes.set_title("test accuracy in % (a backdoor's success)")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--rounds", type=int, help="in place of the configuration's")
    parser.add_argument("--picture", type=Path, help="write the table as a picture, too")
    options = parser.parse_args()
    if options.small:
        options.rules, options.attacks, options.rounds = ["mean", "krum"], ["none", "scale"], 1
    before, overrides = machine.facts(), [f"federated.num_rounds={options.rounds}"] if options.rounds else []
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="robustness-") as folder:
        for rule in options.rules:
            results[rule] = {}
            for attack in options.attacks:
                results[rule][attack] = outcome(rule, attack, Path(folder), *overrides)
                print(f"{rule:16} {attack:10} {cell(results[rule][attack])}", flush=True)
    if options.picture:
        picture(results, options.attacks, options.picture)
    print(f"\n{markdown(results, options.attacks)}\n")
    print(machine.save("robustness", before, {"results": results}, small=options.small))


if __name__ == "__main__":
    main()
