"""A client's training done again with torch.optim and autograd, to hold the shared loop's result against."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from tests.helpers import CPU, tiny_data, tiny_model, tiny_trainer
from torch import Tensor, nn
from torch.nn import functional as F

from fedlens.core.client_store import ClientStore
from fedlens.core.seeds import derive
from fedlens.core.types import ClientResult, Task, TaskSettings, under
from fedlens.models.base import Preprocessing, Recognizer, prepare
from fedlens.strategies.base import RoundContext, Strategy
from fedlens.training.client import STRATEGY, ClientTrainer
from fedlens.training.examples import Examples
from fedlens.training.optimizers.sgd import SGD
from fedlens.training.settings import LocalSettings

DATA = tiny_data(clients=2)
LR = 0.1

Named = dict[str, Tensor]
Term = Callable[[Recognizer, Tensor, Tensor], Tensor]
"""(model, inputs, labels) → what is added to the cross-entropy of a batch."""


def settings(momentum: float = 0.0, batch_size: int = 4, epochs: int = 2) -> LocalSettings:
    return LocalSettings(epochs=epochs, batch_size=batch_size, optimizer=SGD(momentum=momentum))


def steps(how: LocalSettings) -> int:
    return how.epochs * -(-len(DATA.clients[0].train) // how.batch_size)


class Replay:
    """`client0` of `DATA`, in the shared loop and beside it."""

    def __init__(self, strategy: Strategy, folder: Path, how: LocalSettings) -> None:
        self.strategy = strategy
        self.how = how
        self.trainer: ClientTrainer = tiny_trainer(strategy, DATA, folder, how)
        self.store = ClientStore(folder)
        self.model = {name: value.clone() for name, value in self.trainer.model.state().items()}
        self.trainable = self.trainer.model.trainable

    def context(self, number: int) -> RoundContext:
        return RoundContext(number, 9, 2, 1, self.trainable)

    def train(
        self, number: int, payload: Named, store_version: int | None = None, client: str = "client0"
    ) -> ClientResult:
        answer = self.trainer.run(Task(client, number, "train", payload, TaskSettings(lr=LR), store_version))
        assert isinstance(answer, ClientResult)
        return answer

    def kept(self, number: int, client: str = "client0") -> Named:
        """What the strategy keeps at the client."""
        return under(STRATEGY, self.store.read(client, number))

    def again(
        self, number: int, start: Named, term: Term | None = None, gradient: Named | None = None
    ) -> tuple[Recognizer, list[Named]]:
        """The trained model, and the cross-entropy's (and `term`'s) gradient at every step. `gradient`: what each step
        adds to it."""
        module = loaded(start)
        optimizer = torch.optim.SGD(module.parameters(), lr=LR, momentum=self.how.optimizer.momentum)
        seen = []
        for inputs, labels in self.batches(number):
            module.train()
            optimizer.zero_grad()
            logits = module(inputs)
            extra = term(module, inputs, labels) if term else torch.zeros(())
            (F.cross_entropy(logits, labels) + extra).backward()
            seen.append({name: value.grad.clone() for name, value in module.named_parameters()})
            for name, value in module.named_parameters():
                value.grad += 0 if gradient is None else gradient[name]
            optimizer.step()
        return module, seen

    def batches(self, number: int) -> list[tuple[Tensor, Tensor]]:
        """Those that the shared loop draws in that round."""
        generator = torch.Generator().manual_seed(derive(self.how.seed, "train", number, "client0"))
        rows = DATA.clients[0].train
        examples = Examples(DATA, rows, lambda images: prepare(images, Preprocessing(8, 1)), CPU)
        return list(examples.epochs(self.how.epochs, self.how.batch_size, generator))


def loaded(state: Named) -> Recognizer:
    module = tiny_model()
    module.load_state_dict(state, strict=False)
    return module


def parameters(module: nn.Module) -> Named:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def close(ours: Named, theirs: Named, tolerance: float = 1e-5) -> None:
    """Equal, name by name, for all names in `theirs`."""
    for name, value in theirs.items():
        torch.testing.assert_close(
            ours[name], value, atol=tolerance, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )
