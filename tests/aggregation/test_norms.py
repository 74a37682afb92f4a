"""What is finite, and what is not."""

import pytest
import torch

from fedlens.aggregation.norms import all_finite

HUGE = torch.finfo(torch.float32).max


def test_numbers_are_finite_also_where_their_sum_is_not() -> None:
    assert all_finite([])
    assert all_finite([torch.ones(3), torch.zeros(0), torch.tensor(7), torch.rand(2, 2).half()])
    assert all_finite([torch.tensor([HUGE, HUGE]), torch.ones(1)])
    assert all_finite([torch.tensor([1e300, -1e300], dtype=torch.float64)])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_bad_element_anywhere_is_seen(bad: float, place: int) -> None:
    tensors = [torch.ones(2), torch.tensor([HUGE, -HUGE]), torch.ones(2, 3)]
    tensors[place].view(-1)[1] = bad
    assert not all_finite(tensors)
    assert not all_finite([torch.tensor([float("inf"), -float("inf")])])
