"""FedALA's weights: one pass on paper, the two limits, and what is left alone."""

import pytest
import torch
from tests.personalization.benches import Double, Single, bench, plus, slope, stands, step

from fedlens.models.base import ModelRequest, models
from fedlens.models.build import build_model
from fedlens.personalization.base import NO_TERMS
from fedlens.personalization.fedala import FedALA, layers_of, top_layers

RECEIVED, TRAINED, WEIGHTS = (0.5, 0.4), (-0.6, 1.0), (0.7, 0.2)


def keeping(weights=WEIGHTS, trained=TRAINED):
    kept = {"trained/head.weight": torch.tensor(trained).reshape(2, 1)}
    return kept | ({"weights/head.weight": torch.tensor(weights).reshape(2, 1)} if weights else {})


def mixed(weights):
    change = plus(RECEIVED, TRAINED, -1.0)
    return tuple(own + one * weight for own, one, weight in zip(TRAINED, change, weights, strict=True))


def weights(home):
    return home.kept["weights/head.weight"].flatten().tolist()


def test_one_pass_moves_each_weight_by_its_gradient() -> None:
    home = bench(Single(), *RECEIVED, kept=keeping())
    FedALA(weights_lr=0.3).initialize(home)
    gradient, change = slope(mixed(WEIGHTS)), plus(RECEIVED, TRAINED, -1.0)
    after = step(WEIGHTS, (gradient[0] * change[0], gradient[1] * change[1]), 0.3)
    assert all(0 < one < 1 for one in after)
    assert weights(home) == pytest.approx(after)
    assert stands(home) == pytest.approx(mixed(after))


def test_weights_never_leave_0_and_1() -> None:
    home = bench(Single(), *RECEIVED, kept=keeping())
    FedALA(weights_lr=1e6).initialize(home)
    assert weights(home) == [1.0, 1.0], "the received model is the better one in both"
    assert stands(home) == pytest.approx(RECEIVED), "all ones: the shared model"


def test_where_its_own_is_better_it_keeps_its_own() -> None:
    """The image is of class 0: the client's larger a and smaller b win."""
    best = (3.0, -3.0)
    home = bench(Single(), *RECEIVED, kept=keeping(trained=best))
    FedALA(weights_lr=1e6).initialize(home)
    assert weights(home) == [0.0, 0.0]
    assert stands(home) == pytest.approx(best), "all zeros: the client's own"


def test_the_first_time_it_trains_until_the_loss_is_steady() -> None:
    once, long = (bench(Single(), *RECEIVED, kept=keeping(weights)) for weights in ((1.0, 1.0), None))
    method = FedALA(weights_lr=0.02, steady=1e-9)
    best = {"trained/head.weight": torch.tensor([[3.0], [-3.0]])}
    for home in (once, long):
        home.kept = {**home.kept, **best}
        method.initialize(home)
    assert max(weights(long)) < min(weights(once)) < 1
    assert weights(long) != [0.0, 0.0], "a hundred passes at most"


def test_a_client_that_has_not_trained_takes_the_received_model() -> None:
    home = bench(Single(), *RECEIVED)
    FedALA().initialize(home)
    assert stands(home) == pytest.approx(RECEIVED)
    assert home.kept == {}


def test_lower_layers_are_the_received_models() -> None:
    home = bench(Double(), 2.0, *RECEIVED, kept=keeping())
    FedALA(weights_lr=0.3).initialize(home)
    assert stands(home)[0] == 2.0
    assert stands(home)[1:] != pytest.approx(RECEIVED)
    assert set(home.kept) == {"trained/head.weight", "weights/head.weight"}


def test_it_keeps_its_top_layers_as_they_were_trained() -> None:
    home = bench(Double(), 2.0, *RECEIVED)
    FedALA().train(home, NO_TERMS)
    assert home.kept["trained/head.weight"].flatten().tolist() == stands(home)[1:]
    assert stands(home)[0] != 2.0, "all of the model is trained and sent"


@pytest.mark.parametrize(("layers", "lowest"), [(1, "head."), (2, "backbone.layer4.1."), (3, "backbone.layer4.0.")])
def test_a_layer_is_a_stage_and_no_normalisation_counts_by_itself(layers: int, lowest: str) -> None:
    """The head, then the two blocks of ResNet-18's last group, each with its convolutions and BatchNorms."""
    model = build_model(models.get("resnet18").build({}), ModelRequest(10, 32, 3))
    names = [name for name, _ in model.named_parameters()]
    assert len(layers_of(model, names)) == 10, "the stem, eight blocks, the head"
    assert [name for layer in layers_of(model, names) for name in layer] == names
    top = top_layers(model, names, layers)
    assert top == names[-len(top) :]
    assert top[0].startswith(lowest)
    assert not any(name.startswith(lowest) for name in names[: -len(top)])


def test_too_many_layers_are_refused() -> None:
    assert FedALA(layers=2).incompatibility(Double()) is None
    line = FedALA(layers=3).incompatibility(Double())
    assert line.startswith("layers = 3: this model has 2 layers that train")
