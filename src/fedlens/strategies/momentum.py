"""How far SGD with momentum goes: Wang et al. 2020 (FedNova), https://arxiv.org/abs/2007.07481, section 4.1."""

from __future__ import annotations


def most_effective_steps(steps: int, momentum: float) -> float:
    """No smaller than `effective_steps`, for any decay from 0 to 1: a step moves by 1 / (1 − ρ) at most."""
    return steps / (1 - momentum)


def effective_steps(steps: int, momentum: float, decay: float = 0.0) -> float:
    """‖a‖₁ = Σ_k a_k, where a_k is how often the gradient of step k of K is in the displacement, in units of the
    learning rate: (1 − ρ^(K−k)) / (1 − ρ) with momentum ρ, which is 1 for plain SGD.

    decay  η μ of a proximal term (FedProx), by which each step shrinks what the steps before have moved:
           a_k = (1 − η μ)^(K−1−k) without momentum
    """
    displacement, velocity = 0.0, 0.0
    for _ in range(steps):  # every gradient is 1
        velocity = momentum * velocity + 1.0 - decay * displacement
        displacement += velocity
    return displacement
