"""Sites of which one has images alone, one texts alone and one no labels end with the model of a simulation."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.flower.processes import SETTINGS, TOLERANCE, difference, federation, locally

pytestmark = pytest.mark.slow

DUAL_ENCODER = ("model.name=dual_encoder", "model.width=16", "model.max_tokens=8", "federated.min_fit_clients=3")
RUN = (*SETTINGS[1:], *DUAL_ENCODER, "optimizer.keep=false", "federated.evaluate_every=3", "federated.num_rounds=3")


def changed(manifest: Path, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = [change(row) for row in csv.DictReader(file)]
    with manifest.open("w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, rows[0].keys())
        out.writeheader()
        out.writerows(rows)


def lacking(client: str, row: dict[str, str]) -> dict[str, str]:
    """client1 has no texts, client2 no images, client3 no label at all."""
    return {**row, **{"client1": {"text": ""}, "client2": {"path": ""}, "client3": {"label": ""}}.get(client, {})}


@pytest.mark.timeout(400)
def test_the_final_model_is_that_of_a_simulation(tmp_path: Path) -> None:
    with federation(tmp_path, clients=3) as place:
        whole = place.data / "manifest.csv"
        changed(whole, lambda row: lacking(row["client"], row))
        own = {name: place.data / name / "manifest.csv" for name in ("client1", "client2", "client3")}
        for name, manifest in own.items():
            changed(manifest, lambda row, name=name: lacking(name, row))
        expected = locally(whole, tmp_path / "local", *RUN, settings=())
        clients = [place.client(number, data=manifest) for number, manifest in enumerate(own.values(), start=1)]
        server = place.server(*RUN, f"data.path={whole}", settings=())
        assert server.ends() == 0, server.said
        assert [client.ends() for client in clients] == [0, 0, 0]
        assert difference(server.model, expected) < TOLERANCE
        (run,) = {line["round"]: line for line in server.lines if line["round"] == 3}.values()
        assert next(one for one in run["cohort"] if one["client"] == "client3")["metrics"]["loss"] is None
        assert {"modality/image_only", "modality/text_only", "retrieval/text_to_image_at_1"} <= server.lines[-1][
            "measures"
        ].keys()
        texts = [row["text"] for row in csv.DictReader(whole.read_text(encoding="utf-8").splitlines())]
        said = server.said + "".join(client.said for client in clients)
        assert not any(text in said for text in texts if len(text) > 20)
