"""Local training of several clients as one computation, which suits networks so small that a step's bookkeeping takes
longer than its arithmetic.

The models lie one below the other: row k of every tensor is client k's. `torch.vmap` computes what they give, one
backward pass of the sum of their losses all gradients: the loss of a client does not depend on the others' parameters.
Batches, corrections, clipping and steps are those of the shared loop (`training.loop`), client by client.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import zip_longest
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from fedlens.core.labels import UNLABELLED
from fedlens.core.types import MeanMetric
from fedlens.models.base import doubled_if_single
from fedlens.strategies.base import LocalTerms
from fedlens.training.batched_layers import batched_layers
from fedlens.training.context import ResidentTrainingContext
from fedlens.training.dropout import ClientDraws, ClientDropout
from fedlens.training.examples import Batch
from fedlens.training.flat import FlatModel
from fedlens.training.loop import STEPS, Stepped, Tally, clip_factor, logits_and_features
from fedlens.training.optimizers.base import VectorOptimizer
from fedlens.training.precision import autocast
from fedlens.training.settings import LocalSettings

Trainee = tuple[ResidentTrainingContext, LocalTerms]
"""A client that is about to train, and what its strategy adds."""

Ready = Callable[[Tensor], Tensor]
"""Raw images → inputs of the model."""

Rows = slice | Tensor
"""Some rows of the stack."""

T = TypeVar("T")


class StackedModel:
    """The models of `rows` clients, beside the resident one.

    vectors    (K, P) the trainable parameters
    gradients  (K, P)
    """

    def __init__(self, model: FlatModel, rows: int) -> None:
        self.resident = model
        self.vectors = model.vector.new_empty(rows, len(model.vector))
        self.gradients = torch.zeros_like(self.vectors)
        self._parameters = model.side_by_side(self.vectors)
        self._of_parameters = model.side_by_side(self.gradients)
        counters = {name: value for name, value in model.module.named_buffers() if name.endswith(COUNTER)}
        self._statistics = {
            name: value.expand(rows, *value.shape).clone() for name, value in (model.statistics() | counters).items()
        }
        self._inside = _Inside(model.module)

    def take(self, row: int) -> None:
        """Copy the resident model, as it is now, into a row."""
        self.vectors[row] = self.resident.vector
        for name, value in self.resident.statistics().items():
            self._statistics[name][row] = value

    def give(self, row: int) -> None:
        """Copy a row into the resident model."""
        self.resident.vector.copy_(self.vectors[row])
        self.resident.load({name: value[row] for name, value in self._statistics.items()})

    def tensors(self, rows: Rows) -> dict[str, Tensor]:
        """Parameters and running statistics of some clients; those that train are leaves of a new graph. The module's
        other tensors are the same for all clients."""
        taken = {name: value[rows].detach() for name, value in self._parameters.items()}
        parameters = {name: value.requires_grad_(name in self.trained) for name, value in taken.items()}
        return parameters | {name: value[rows] for name, value in self._statistics.items()}

    @cached_property
    def trained(self) -> frozenset[str]:
        """Names of the parameters that need a gradient in this round."""
        named = self.resident.module.named_parameters()
        return frozenset(name for name, value in named if value.requires_grad and name in self._parameters)

    def gives(
        self, tensors: dict[str, Tensor], inputs: Tensor, dropout: ClientDropout, *, features: bool
    ) -> tuple[Tensor, ...]:
        """(K, B, …) → logits (K, B, classes), and what the backbone gives, if `features`."""

        def outputs(module: nn.Module, inputs: Tensor) -> tuple[Tensor, ...]:
            return logits_and_features(module, inputs) if features else (doubled_if_single(module, inputs),)

        def of_one(own: dict[str, Tensor], inputs: Tensor) -> tuple[Tensor, ...]:
            return self.within(own, lambda module: outputs(module, inputs))

        with batched_layers(self.resident.device), dropout:
            found: tuple[Tensor, ...] = vmap(of_one, randomness="error")(tensors, inputs)
        return found

    def within(self, own: dict[str, Tensor], call: Callable[[nn.Module], T]) -> T:
        """`call(module)`, where the module has one client's tensors."""
        found: T = functional_call(self._inside, {f"module.{name}": value for name, value in own.items()}, (call,))
        return found

    def pull_back(self, loss: Tensor, tensors: dict[str, Tensor], rows: Rows) -> None:
        """Write the gradient of `loss` to `gradients`, and keep the running statistics."""
        trained = {name: value for name, value in tensors.items() if name in self.trained}
        found = torch.autograd.grad(loss, [*trained.values()], allow_unused=True, materialize_grads=True)
        for name, gradient in zip(trained, found, strict=True):
            self._of_parameters[name][rows] = gradient
        if isinstance(rows, Tensor):  # a slice's tensors are views
            for name, value in self._statistics.items():
                value[rows] = tensors[name]


COUNTER = "num_batches_tracked"
"""Last part of the name of BatchNorm's counter of batches."""


class _Inside(nn.Module):
    """A module to which `torch.func.functional_call` lends tensors while any function of it is called."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, call: Callable[[nn.Module], T]) -> T:
        return call(self.module)


@dataclass(frozen=True)
class Piece:
    """Batches of some clients, of one size: inputs (n, B, …) and labels (n, B), on the device. sizes: images of each
    client; a smaller batch ends with rows that have no label."""

    rows: Rows
    numbers: Sequence[int]
    inputs: Tensor
    labels: Tensor
    sizes: Sequence[int]


@dataclass
class _Tallies:
    """Losses and accuracies of the clients' steps, in the order in which they were computed, and of every step whether
    the first clients' gradients were clipped. All are kept on the device until the end."""

    rows: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    correct: list[Tensor] = field(default_factory=list)
    clipped: list[Tensor] = field(default_factory=list)

    def tell(self, piece: Piece, losses: Tensor, correct: Tensor) -> None:
        self.rows.extend(piece.numbers)
        self.sizes.extend(piece.sizes)
        self.losses.append(losses.detach())
        self.correct.append(correct)

    def of_each(self, clients: int) -> list[Tally]:
        found = [Tally() for _ in range(clients)]
        if not self.losses:
            return found
        losses, correct = torch.cat(self.losses).cpu(), torch.cat(self.correct).cpu()
        for row, size, loss, right in zip(self.rows, self.sizes, losses, correct, strict=True):
            found[row].losses.append(loss)
            found[row].correct.append(right[None])
            found[row].sizes.append(size)
        for step in self.clipped:
            for row, was in enumerate(step.cpu()):
                found[row].clipped.append(was)
        return found


class StackedLoop:
    """Trains the clients of a stack.

    ready  raw images of all of them → inputs of the model
    draws  of the clients' random numbers
    pads   a batch may be filled up with rows that do not count, because no layer lets the rows of a batch depend on
           each other; otherwise batches of one size are computed together
    maps   how maps (B, C, H, W) of one client alone lie in memory
    """

    def __init__(
        self,
        stack: StackedModel,
        settings: LocalSettings,
        ready: Ready,
        draws: ClientDraws,
        *,
        pads: bool,
        maps: torch.memory_format,
        stepped: Stepped,
    ) -> None:
        self._stack = stack
        self._settings = settings
        self._prepare = ready
        self._draws = draws
        self._preparing = 0.0
        """Seconds."""
        self._pads = pads
        self._maps = maps
        self._stepped = stepped
        self._tallies = _Tallies()

    def run(self, clients: Sequence[Trainee]) -> list[dict[str, MeanMetric]]:
        """Train on the clients' batches; gives the metrics of each. The first clients have the most steps, so the ones
        that are not done are always the first rows."""
        terms, steps = [own for _, own in clients], [0] * len(clients)
        step = self._stepper(clients)
        for batches in zip_longest(*(local.raw_batches(local.epochs) for local, _ in clients)):
            active = [batch for batch in batches if batch is not None]
            self.differentiate(active, terms)
            for row, own in enumerate(terms[: len(active)]):
                steps[row] += 1
                if own.correction is not None:
                    self._stack.gradients[row].add_(own.correction(self._stack.vectors[row]))
            step(len(active))
        for local, _ in clients:
            local.waited += self._preparing / len(clients)
        tallies = self._tallies.of_each(len(clients))
        return [{**tally.metrics(), STEPS: MeanMetric(taken, 1)} for tally, taken in zip(tallies, steps, strict=True)]

    def _ready(self, images: Tensor) -> Tensor:
        began = time.perf_counter()
        inputs = self._prepare(images)
        self._preparing += time.perf_counter() - began
        return inputs

    def differentiate(self, batches: Sequence[Batch], terms: Sequence[LocalTerms]) -> None:
        """Write the clipped gradients of the first clients' raw batches to the stack's `gradients`."""
        stack, clip = self._stack, self._settings.training.clip_norm
        stack.resident.train()
        if len(stack.trained) < len(stack.resident.trainable):
            stack.gradients.zero_()  # corrections were added to those of frozen parameters
        for piece in pieces(batches, self._ready, pads=self._pads):
            self._differentiate(piece, terms)
        for _ in batches:
            self._stepped()
        if clip is not None:
            gradients = stack.gradients[: len(batches)]
            norms = gradients.norm(dim=1, keepdim=True)
            self._tallies.clipped.append((norms > clip).squeeze(1))
            gradients.mul_(clip_factor(norms, clip))

    def _differentiate(self, piece: Piece, terms: Sequence[LocalTerms]) -> None:
        wanted = any(terms[number].features is not None for number in piece.numbers)
        tensors = self._stack.tensors(piece.rows)
        with autocast(self._settings.memory.precision, self._stack.resident.device):
            logits, *features = self._stack.gives(tensors, piece.inputs, self._dropout(piece), features=wanted)
            added = [*self._features(piece, features, terms)]
        losses = self._cross_entropies(logits, piece.labels)
        self._tallies.tell(piece, losses, (logits.detach().argmax(2) == piece.labels).sum(1))
        added += self._losses(piece, tensors, logits, terms)
        self._stack.pull_back(sum(added, losses.sum()), tensors, piece.rows)

    def _dropout(self, piece: Piece) -> ClientDropout:
        return ClientDropout(self._draws, piece.numbers, piece.sizes, self._maps)

    def _cross_entropies(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(n, B, classes) → (n,), means over the rows that have a label."""
        smoothing = self._settings.training.label_smoothing
        rows = F.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), reduction="none", label_smoothing=smoothing
        )
        return rows.view_as(labels).sum(1) / (labels != UNLABELLED).sum(1)

    def _features(self, piece: Piece, features: Sequence[Tensor], terms: Sequence[LocalTerms]) -> list[Tensor]:
        """The clients' terms on the features."""
        found = []
        for index, (number, size) in enumerate(zip(piece.numbers, piece.sizes, strict=True)):
            if (term := terms[number].features) is not None:
                inputs, labels = piece.inputs[index, :size], piece.labels[index, :size]
                with self._draws.of(number):
                    found.append(term(inputs, features[0][index, :size], labels))
        return found

    def _losses(
        self, piece: Piece, tensors: dict[str, Tensor], logits: Tensor, terms: Sequence[LocalTerms]
    ) -> list[Tensor]:
        """The clients' other terms; the module that they are given has the client's tensors."""
        found = []
        for index, (number, size) in enumerate(zip(piece.numbers, piece.sizes, strict=True)):
            if (term := terms[number].loss) is not None:
                own = {name: value[index] for name, value in tensors.items()}
                given = piece.inputs[index, :size], logits[index, :size], piece.labels[index, :size]
                with self._draws.of(number):
                    found.append(self._stack.within(own, partial(_applied, term, given)))
        return found

    def _stepper(self, clients: Sequence[Trainee]) -> Callable[[int], None]:
        """What steps the first clients by their gradients: all in one call where the optimizer can, and no client has
        a state to go on with or to keep."""
        stack, share, lr = self._stack, self._stack.resident.step_scale, clients[0][0].lr
        vectors, gradients, rule = stack.vectors, stack.gradients, self._settings.optimizer
        together = VectorOptimizer(rule, {})

        def at_once(active: int) -> None:
            together.go_on_with(active)
            together.scaled_step(vectors[:active], gradients[:active], lr, share)

        def one_by_one(active: int) -> None:
            for row, (local, _) in enumerate(clients[:active]):
                local.optimizer.scaled_step(vectors[row], gradients[row], lr, share)

        # of the class itself: a subclass may step in another way
        elementwise = vars(type(rule)).get("elementwise", False)
        return at_once if elementwise and not self._settings.training.keep else one_by_one


def _applied(term: Callable[..., Tensor], given: Sequence[Tensor], module: nn.Module) -> Tensor:
    return term(module, *given)


def pieces(batches: Sequence[Batch], ready: Ready, *, pads: bool) -> list[Piece]:
    """The raw batches of the first clients, those of one size together; all, if smaller ones may be padded."""
    numbers: dict[int, list[int]] = {}
    for number, (_, labels) in enumerate(batches):
        numbers.setdefault(0 if pads else len(labels), []).append(number)
    return [piece_of(batches, ready, some) for some in numbers.values()]


def piece_of(batches: Sequence[Batch], ready: Ready, numbers: Sequence[int]) -> Piece:
    """The batches with these numbers."""
    own = [batches[number] for number in numbers]
    sizes = [len(labels) for _, labels in own]
    device = own[0][0].device  # poisoned images are in main memory, those of others may be on the GPU
    inputs = ready(torch.cat([padded(images.to(device), max(sizes), 0) for images, _ in own]))
    truth = [labels.to(inputs.device, non_blocking=True) for _, labels in own]
    labels = torch.stack([padded(one, max(sizes), UNLABELLED) for one in truth])
    all_of_them = len(numbers) == len(batches)
    rows = slice(len(numbers)) if all_of_them else torch.tensor(numbers, device=inputs.device)
    return Piece(rows, numbers, inputs.unflatten(0, labels.shape), labels, sizes)


def padded(rows: Tensor, size: int, value: int) -> Tensor:
    """(B, …) → (size, …), with rows of `value` at the end."""
    if len(rows) == size:
        return rows
    return torch.cat([rows, rows.new_full((size - len(rows), *rows.shape[1:]), value)])
