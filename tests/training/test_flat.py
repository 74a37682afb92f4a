from dataclasses import replace

import torch
from tests.helpers import CPU, tiny_data, tiny_model, tiny_trainer

from fedlens.core.types import Task, TaskSettings
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.flat import FlatModel
from fedlens.training.settings import LocalSettings


def test_the_vector_is_the_model() -> None:
    module = tiny_model()
    inputs = torch.rand(4, 1, 8, 8)
    expected = module.eval()(inputs)
    flat = FlatModel(module, CPU)
    assert torch.allclose(flat.module(inputs), expected, atol=1e-6)
    flat.vector.zero_()
    assert all(not parameter.any() for parameter in flat.module.parameters())


def test_what_travels() -> None:
    flat = FlatModel(tiny_model(), CPU)
    assert "backbone.1.running_mean" in flat.state()
    assert "backbone.1.num_batches_tracked" not in flat.state()  # an integer counter
    assert "backbone.1.running_mean" not in flat.trainable


def test_frozen_layers_do_not_travel() -> None:
    module = tiny_model()
    module.backbone.requires_grad_(False)
    assert set(FlatModel(module, CPU).state()) == {"head.weight", "head.bias"}


def test_load_restores_in_place_and_delta_is_after_minus_before() -> None:
    flat = FlatModel(tiny_model(), CPU)
    before = flat.state()
    flat.vector.add_(0.5)
    delta = flat.delta(before)
    assert torch.allclose(delta["head.weight"], torch.full_like(delta["head.weight"], 0.5))
    assert not delta["backbone.1.running_var"].any()
    address = flat.vector.data_ptr()
    flat.load(before)
    assert flat.vector.data_ptr() == address
    assert all(torch.equal(value, before[name]) for name, value in flat.state().items())


def test_flatten_and_unflatten_are_inverse() -> None:
    flat = FlatModel(tiny_model(), CPU)
    named = flat.unflatten(flat.vector)
    assert all(torch.equal(named[name], flat.state()[name]) for name in flat.trainable)
    assert torch.equal(flat.flatten(named), flat.vector)


def test_what_a_state_lacks_stays_as_it_is() -> None:
    flat = FlatModel(tiny_model(), CPU)
    before = flat.state()
    flat.load({name: value + 1 for name, value in before.items() if name != "head.bias"})
    for name, value in flat.state().items():
        assert torch.equal(value, before[name] + (name != "head.bias")), name


def test_a_mask_marks_the_parameters_of_its_names() -> None:
    flat = FlatModel(tiny_model(), CPU)
    marked = flat.unflatten(flat.mask({"head.weight", "head.bias"}))
    for name, value in marked.items():
        assert torch.equal(value, torch.full_like(value, float(name.startswith("head.")))), name


def test_not_finite_is_seen_in_parameters_and_statistics() -> None:
    flat = FlatModel(tiny_model(), CPU)
    assert flat.is_finite()
    flat.module.get_buffer("backbone.1.running_mean")[0] = float("nan")
    assert not flat.is_finite()


def test_what_a_client_has_set_to_evaluation_trains_again_at_the_next_one(tmp_path) -> None:
    """A strategy of one's own may forget it. Within a client the mode is not looked at again: that would take time."""
    trainer = tiny_trainer(FedAvg(), tiny_data(), tmp_path, LocalSettings(batch_size=4))
    task = Task("client0", 1, "train", trainer.model.state(), TaskSettings(lr=0.1))
    trainer.run(task)
    backbone = trainer.model.module.backbone
    backbone.eval()
    trainer.run(replace(task, client="client1"))
    assert all(part.training for part in backbone.modules())
