import pytest

from fedlens.training.learning_rate import LearningRate
from fedlens.training.sections import OptimizerSection


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1, 1, 1, 1, 1]),
        ("cosine", [1, 0.904508, 0.654508, 0.345492, 0.095492]),  # (1 + cos(π t / 5)) / 2, t = 0 … 4
        ("step", [1, 1, 0.5, 0.5, 0.25]),
        ("exponential", [1, 0.5, 0.25, 0.125, 0.0625]),
    ],
)
def test_schedules(schedule, expected) -> None:
    rate = LearningRate(OptimizerSection(lr=1.0, schedule=schedule, step_rounds=2, gamma=0.5), num_rounds=5)
    assert [rate.at(number) for number in range(1, 6)] == pytest.approx(expected, abs=1e-6)


def test_warmup_rises_linearly_to_the_full_rate() -> None:
    rate = LearningRate(OptimizerSection(lr=0.4, warmup_rounds=3), num_rounds=6)
    assert [rate.at(number) for number in range(1, 6)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
