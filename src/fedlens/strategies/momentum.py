"""Effective number of steps of SGD with momentum: Wang et al. 2020 (FedNova), https://arxiv.org/abs/2007.07481, section
4.1."""

from __future__ import annotations


def most_effective_steps(steps: int, momentum: float) -> float:
    """An upper bound of `effective_steps` for any decay from 0 to 1: each gradient contributes at most 1 / (1 − ρ)."""
    return steps / (1 - momentum)


def effective_steps(steps: int, momentum: float, decay: float = 0.0) -> float:
    """‖a‖₁ = Σ_k a_k, where a_k is the coefficient of the gradient of step k of K in the total displacement, in units
    of the learning rate: (1 − ρ^(K−k)) / (1 − ρ) with momentum ρ, which is 1 for plain SGD.

    decay  η μ of a proximal term (FedProx), by which each step shrinks the displacement so far:
           a_k = (1 − η μ)^(K−1−k) without momentum
    """
    displacement, velocity = 0.0, 0.0
    for _ in range(steps):  # every gradient is 1
        velocity = momentum * velocity + 1.0 - decay * displacement
        displacement += velocity
    return displacement
