"""The matrix of correlated noise. Numbers marked so are those of jax-privacy 2.0.0 (`BufferedToeplitz`, `toeplitz`)."""

from itertools import combinations, pairwise

import numpy as np
import pytest

from fedlens.privacy.factorization import BufferedToeplitz, best

MATRIX = BufferedToeplitz((0.9, 0.5), (0.25, 0.3))


def dense(matrix: BufferedToeplitz, rounds: int) -> np.ndarray:
    """C itself, from its definition."""
    column = [1.0]
    for power in range(rounds - 1):
        column.append(sum(w * t**power for w, t in zip(matrix.scales, matrix.decays, strict=True)))
    return np.array([[column[row - at] if row >= at else 0.0 for at in range(rounds)] for row in range(rounds)])


def test_the_first_column() -> None:
    found = MATRIX.coefficients(60)
    assert found[:6] == pytest.approx([1, 0.55, 0.375, 0.2775, 0.21975, 0.182775])  # jax-privacy
    assert found[59] == pytest.approx(0.0005546328086155671)  # jax-privacy
    assert found == pytest.approx(dense(MATRIX, 60)[:, 0])
    assert BufferedToeplitz().coefficients(3).tolist() == [1, 0, 0]


@pytest.mark.parametrize(  # jax-privacy: after 1, 7, 8, 30 and 60 rounds
    ("separation", "expected"),
    [
        (1, [1.0, 5.678146691802815, 6.375645652662663, 18.35539042273688, 28.861004195677864]),
        (7, [1.0, 1.2753337712658792, 1.708944443702402, 3.4258326963745067, 4.956496225969053]),
        (20, [1.0, 1.2753337712658792, 1.2827297500492114, 1.8872454043991038, 2.353850434826471]),
        (60, [1.0, 1.2753337712658792, 1.2827297500492114, 1.311847880324949, 1.3121255007529304]),
    ],
)
def test_sensitivities(separation: int, expected: list[float]) -> None:
    assert MATRIX.sensitivities(60, separation)[[0, 6, 7, 29, 59]] == pytest.approx(expected)


@pytest.mark.parametrize("separation", [1, 2, 3, 5])
def test_no_allowed_participation_has_a_larger_sensitivity(separation: int) -> None:
    """Every set of rounds at least `separation` apart, and every sign of the updates in them would do less."""
    rounds = 8
    matrix = dense(MATRIX, rounds)
    largest = 0.0
    for many in range(1, rounds + 1):
        for chosen in combinations(range(rounds), many):
            if all(later - earlier >= separation for earlier, later in pairwise(chosen)):
                largest = max(largest, float(np.linalg.norm(matrix[:, chosen].sum(axis=1))))
    assert MATRIX.sensitivities(rounds, separation)[-1] == pytest.approx(largest)


def test_errors_of_the_sums() -> None:
    found = MATRIX.errors(60)
    expected = [1.0, 1.0965856099730653, 1.404813522634244, 2.233420929828908]  # jax-privacy
    assert found[[0, 1, 9, 59]] == pytest.approx(expected)
    sums = np.tril(np.ones((60, 60))) @ np.linalg.inv(dense(MATRIX, 60))
    assert found == pytest.approx(np.linalg.norm(sums, axis=1))


@pytest.mark.parametrize(  # jax-privacy: optimize(error="mean", max_buffers=3)
    ("rounds", "separation", "expected"),
    [(100, 10, 9.893516903), (200, 100, 3.705389205), (50, 5, 9.202539511), (500, 20, 23.207709497)],
)
def test_the_best_matrix(rounds: int, separation: int, expected: float) -> None:
    matrix = best(rounds, separation)
    column = matrix.coefficients(rounds)
    assert matrix.loss(rounds, separation) == pytest.approx(expected, rel=1e-4)
    assert (column >= 0).all()
    assert (np.diff(column) <= 0).all()


def test_where_clients_take_part_in_every_round_noise_is_independent() -> None:
    assert best(50, 1) == BufferedToeplitz()


def test_a_single_participation_of_each_client() -> None:
    """With one participation, the least possible error of a factorisation with a Toeplitz C is that of the square root
    (Fichtenberger, Henzinger, Upadhyay 2023, https://arxiv.org/abs/2202.11205); BLT comes close with few buffers."""
    rounds = 500
    root = np.cumprod([1.0, *((2 * at - 1) / (2 * at) for at in range(1, rounds))])
    least = np.sqrt(np.mean(np.cumsum(root**2)) * np.sum(root**2))
    matrix = best(rounds, rounds)
    assert len(matrix.decays) <= 3
    assert least * 0.95 < matrix.loss(rounds, rounds) < least * 1.02
