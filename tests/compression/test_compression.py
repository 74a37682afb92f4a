"""Compressions against numbers worked out by hand, and in whole runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.helpers import infos, tiny_data, tiny_trainer

from fedlens.compression.base import compressions
from fedlens.compression.half import Half
from fedlens.compression.quantize import SCALES, Quantize
from fedlens.compression.topk import PLACES, VALUES, TopK
from fedlens.core.types import ClientReport, ClientResult, State, Task, TaskSettings
from fedlens.errors import ProtocolError
from fedlens.runtimes.in_process import InProcessRuntime
from fedlens.runtimes.local import LocalRuntime
from fedlens.strategies.base import ClientUpdate
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.algorithm import Algorithm
from fedlens.training.settings import LocalSettings
from fedlens.transforms.base import EncodingContext

TRAINABLE = frozenset({"bias", "weight"})


def context(kept: State | None = None, seed: int = 0) -> EncodingContext:
    return EncodingContext(1, "client0", TRAINABLE, kept or {}, seed, secret_seed=0)


def result(update: ClientUpdate) -> ClientResult:
    return ClientResult(1, "train", ClientReport("client0", 1.0, {}), update.payload, update.extra)


def sent_and_read(transform, payload: State, kept: State | None = None, seed: int = 0) -> State:
    encoded = transform.encode(ClientUpdate(payload, 1.0), context(kept, seed))
    return transform.decode(result(encoded.update), payload).payload


def test_half_rounds_to_16_bits_and_gives_32_back() -> None:
    payload = {"bias": torch.tensor([1.0, 1.001, -3e38]), "running_var": torch.tensor([0.1])}
    extra = {"c": torch.tensor([0.1]), "steps": torch.tensor(0.1)}
    encoded = Half().encode(ClientUpdate(payload, 1.0, extra), context()).update
    assert {value.dtype for value in encoded.payload.values()} == {torch.bfloat16}
    back = Half().decode(result(encoded), payload)
    assert back.payload["bias"].dtype == torch.float32
    assert back.payload["bias"][:2].tolist() == [1.0, 1.0]  # bf16 has 8 bits: 1.001 lies nearer to 1 than to 1.0078125
    assert back.payload["bias"][2] == pytest.approx(-3e38, rel=2**-8)
    assert back.extra["steps"] == extra["steps"], "single numbers travel whole"


def test_fp16_has_more_digits_and_a_largest_number() -> None:
    payload = {"bias": torch.tensor([1.001, 1e9, -1e9])}
    back = sent_and_read(Half("fp16"), payload)["bias"]
    assert back[0] == pytest.approx(1.001, abs=2**-11)
    assert back[1:].tolist() == [65504, -65504]


def test_the_model_travels_in_half_only_if_asked() -> None:
    model = {"bias": torch.tensor([1.001])}
    assert Half().encode_model(model)["bias"].dtype == torch.float32
    down = Half(down=True)
    assert down.encode_model(model)["bias"].dtype == torch.bfloat16
    assert down.decode_model(down.encode_model(model))["bias"].dtype == torch.float32


@pytest.mark.parametrize(("bits", "levels"), [(8, 127), (4, 7)])
def test_levels_are_those_of_the_paper(bits: int, levels: int) -> None:
    # m = 2: whole multiples of 2 / s are met exactly, whatever is drawn
    values = torch.tensor([2.0, -2.0, 0.0, 2.0 * 3 / levels, -2.0 / levels])
    found = sent_and_read(Quantize(bits), {"bias": values}, seed=3)["bias"]
    torch.testing.assert_close(found, values, atol=1e-6, rtol=0)


@pytest.mark.parametrize("bits", [8, 4])
def test_quantisation_is_unbiased_and_at_most_a_level_off(bits: int) -> None:
    values = torch.tensor([1.0, 0.3, -0.7, 0.01, 0.0])
    drawn = torch.stack([sent_and_read(Quantize(bits), {"bias": values}, seed=seed)["bias"] for seed in range(3000)])
    level = 1.0 / Quantize(bits).levels
    assert float((drawn - values).abs().max()) < level
    # the standard error of a mean of 3,000 draws is at most level / 2 / √3000
    assert float((drawn.mean(0) - values).abs().max()) < 5 * level / 2 / 3000**0.5


def test_quantisation_packs_two_numbers_of_4_bits_into_a_byte() -> None:
    payload = {"weight": torch.randn(3, 5), "bias": torch.randn(3), "running_var": torch.ones(2)}
    update = Quantize(4).encode(ClientUpdate(payload, 1.0), context()).update
    sizes = {name: value.nbytes for name, value in update.payload.items()}
    assert sizes == {"weight": 8, "bias": 2, "running_var": 8, SCALES: 8}
    assert Quantize(4).decode(result(update), payload).payload["weight"].shape == (3, 5)


def test_an_update_of_zeros_is_quantised_to_zeros() -> None:
    assert not sent_and_read(Quantize(), {"bias": torch.zeros(4)})["bias"].any()


def test_topk_sends_the_largest_and_remembers_the_rest() -> None:
    first, second = {"bias": torch.tensor([3.0, -1.0, 2.0, 0.5])}, {"bias": torch.tensor([0.1, -1.0, 0.0, 0.25])}
    encoded = TopK(0.5).encode(ClientUpdate(first, 1.0), context())
    assert encoded.update.payload[PLACES].tolist() == [0, 2]
    assert encoded.update.payload[VALUES].tolist() == [3.0, 2.0]
    assert encoded.kept["bias"].tolist() == [0.0, -1.0, 0.0, 0.5]
    # g = Δ + m = (0.1, −2, 0, 0.75)
    assert sent_and_read(TopK(0.5), second, dict(encoded.kept))["bias"].tolist() == [0.0, -2.0, 0.0, 0.75]


def test_topk_of_several_tensors_and_formats() -> None:
    weight = torch.arange(24.0).reshape(2, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    payload = {"weight": weight, "bias": torch.tensor([100.0, -50.0]), "running_var": torch.ones(2)}
    found = sent_and_read(TopK(5 / 26), payload)
    expected = torch.zeros(24)
    expected[21:] = torch.arange(21.0, 24.0)
    assert torch.equal(found["weight"].flatten(), expected)
    assert found["bias"].tolist() == [100.0, -50.0]
    assert torch.equal(found["running_var"], payload["running_var"])


@pytest.mark.parametrize(
    ("transform", "harm"),
    [
        (TopK(0.5), {PLACES: torch.tensor([2, 1], dtype=torch.int32)}),
        (TopK(0.5), {PLACES: torch.tensor([1, 1], dtype=torch.int32)}),
        (TopK(0.5), {PLACES: torch.tensor([-1, 1], dtype=torch.int32)}),
        (TopK(0.5), {PLACES: torch.tensor([1, 4], dtype=torch.int32)}),
        (TopK(0.5), {VALUES: torch.zeros(3)}),
        (Quantize(8), {"bias": torch.zeros(9, dtype=torch.int8)}),
        (Quantize(8), {SCALES: torch.zeros(2)}),
        (Quantize(4), {"bias": torch.full((2,), 255, dtype=torch.uint8)}),
    ],
)
def test_what_no_client_encodes_is_refused(transform, harm: State) -> None:
    payload = {"bias": torch.tensor([3.0, -1.0, 2.0, 0.5])}
    update = transform.encode(ClientUpdate(payload, 1.0), context()).update
    with pytest.raises(ProtocolError, match="a compressed update"):
        transform.decode(result(replace(update, payload={**update.payload, **harm})), payload)


DATA = tiny_data(clients=4)


@pytest.mark.parametrize("transform", [Half(down=True), Quantize(4), TopK(0.1)], ids=lambda one: one.name)
def test_worker_processes_decode_what_one_process_does(transform, tmp_path) -> None:
    def totals(folder, workers: int) -> State:
        algorithm = Algorithm(FedAvg(), encodings=(transform,))

        def make():
            return tiny_trainer(algorithm, DATA, folder, LocalSettings(batch_size=4))

        trainer = make()
        place = (
            LocalRuntime(infos(DATA), make, workers=workers, threads_per_worker=1, start_method="fork")
            if workers
            else InProcessRuntime(infos(DATA), make)
        )
        payload = algorithm.chain.encode_model(trainer.model.state())
        try:
            sums = trainer.partial_sum(1, {})
            place.submit([Task(one.name, 1, "train", payload, TaskSettings(lr=0.1)) for one in infos(DATA)])
            for outcome in place.completed():
                sums.merge(outcome)
            return sums.result().delta
        finally:
            place.close()

    one, two = totals(tmp_path / "one", 0), totals(tmp_path / "two", 2)
    for name in one:
        torch.testing.assert_close(one[name], two[name])


def test_every_compression_has_a_test_here() -> None:
    assert set(compressions.names()) == {"none", "half", "quantize", "topk"}
