"""Who masks with whom. SecAgg (Bonawitz et al. 2017, https://doi.org/10.1145/3133956.3133982): each client with every
other. SecAgg+ (Bell et al. 2020, https://doi.org/10.1145/3372297.3417885): each with k others, its neighbours in a
Harary graph whose places are drawn at random.

The number of neighbours follows from the events that Bell et al. bound (section 3.2, for a server that follows the
protocol): with n clients, of which a share `CORRUPT` works together with the server and a share `DROPOUT` drops out,
the probability is at most

    2^−40 that some client has as many corrupt neighbours as open a secret, or that the honest clients that stay are not
          connected with each other: only then does the server learn more than the sum;
    2^−20 that some client has too few neighbours that stay: the round is then repeated.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from random import SystemRandom

CORRUPT = 0.2
DROPOUT = 0.1
SECURITY_BITS, CORRECTNESS_BITS = 40, 20

Graph = Mapping[str, frozenset[str]]
"""Client → its neighbours."""


def graph(clients: Sequence[str], neighbours: int) -> Graph:
    """Each client with `neighbours` others, rounded up to an even number; with every other where there are no more."""
    if neighbours >= len(clients) - 1:
        everybody = frozenset(clients)
        return {client: everybody - {client} for client in clients}
    ring = list(clients)
    SystemRandom().shuffle(ring)
    steps = [step for near in range(1, math.ceil(neighbours / 2) + 1) for step in (near, -near)]
    return {
        client: frozenset(ring[(place + step) % len(ring)] for step in steps) - {client}
        for place, client in enumerate(ring)
    }


def connected(graph: Graph, clients: Collection[str]) -> bool:
    """Whether masks connect all of `clients` with each other. Where they do not, each part's masks cancel out on their
    own, and whoever adds up a part alone learns its sum."""
    left, waiting = set(clients), list(clients)[:1]
    while waiting:
        client = waiting.pop()
        if client in left:
            left.remove(client)
            waiting += graph[client] & left
    return not left


def holders_needed(clients: int, share: float) -> int:
    """How many of `clients` are at least the share `share`; always two, and more than half: two halves could each be
    told another list of survivors, and one would open a client's key, the other one its seed."""
    return max(2, clients // 2 + 1, math.ceil(share * clients - 1e-9))


def honest_at_threshold(clients: int, threshold: float) -> int:
    """`honest_survivors` of a round of which that fraction of the clients has to stay."""
    return honest_survivors(clients, holders_needed(clients, threshold))


def honest_survivors(clients: int, least: int) -> int:
    """Of at least `least` survivors among `clients`, how many do not work together with the server: all but the share
    `CORRUPT` of the clients, and one always."""
    return max(1, least - math.ceil(CORRUPT * clients - 1e-9))


@lru_cache
def neighbours_needed(clients: int, threshold: float) -> int:
    """The least even number of neighbours that keeps the probabilities of this file's docstring, or all others."""
    for count in range(2, clients - 1, 2):
        if _private(clients, count, threshold) and _correct(clients, count, threshold):
            return count
    return clients - 1


def _private(clients: int, neighbours: int, threshold: float) -> bool:
    opens = holders_needed(neighbours + 1, threshold)
    corrupt = math.ceil(CORRUPT * clients)
    opened = clients * _at_least(opens, clients - 1, corrupt, neighbours)
    gone = (CORRUPT + DROPOUT) ** (neighbours // 2)  # in a row, on one side
    return max(opened, clients * gone) <= 2.0 ** -(SECURITY_BITS + 1)


def _correct(clients: int, neighbours: int, threshold: float) -> bool:
    most = neighbours - holders_needed(neighbours + 1, threshold)
    lost = math.ceil(DROPOUT * clients)
    return clients * _at_least(most + 1, clients - 1, lost, neighbours) <= 2.0**-CORRECTNESS_BITS


def _at_least(least: int, population: int, marked: int, draws: int) -> float:
    """The probability that `draws` of a population, without replacement, hold at least `least` marked ones."""
    ways = sum(
        math.comb(marked, count) * math.comb(population - marked, draws - count) for count in range(least, draws + 1)
    )
    return ways / math.comb(population, draws)
