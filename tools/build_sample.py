"""Make the sample data that ships in the package from the four IDX files of Fashion-MNIST.

    python tools/build_sample.py /usr/share/datasets/fashion-mnist

5,000 training pictures go to ten shops, 1,000 test pictures (100 a class) to nobody. A shop's size is uniform
in 250–900, scaled to the total; its assortment is a draw from Dirichlet(0.5) over the ten classes, so shops differ as
shops do. One seed fixes all of it: the file comes out the same every time.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlens.data.sources.fashion_mnist import CLASS_NAMES, read_part

SEED = 2017
SHOPS, TRAIN, TEST_PER_CLASS = 10, 5_000, 100
SMALLEST, LARGEST, ALPHA = 250, 900, 0.5
TARGET = Path(__file__).parents[1] / "src" / "fedlens" / "data" / "sample" / "fashion_mnist_excerpt.npz"


def shop_sizes(rng: np.random.Generator) -> NDArray[np.int64]:
    """(SHOPS,) sizes within the bounds that add up to TRAIN."""
    while True:
        drawn = rng.uniform(SMALLEST, LARGEST, SHOPS)
        sizes: NDArray[np.int64] = np.rint(drawn * TRAIN / drawn.sum()).astype(np.int64)
        sizes[0] += TRAIN - sizes.sum()
        if sizes.min() >= SMALLEST and sizes.max() <= LARGEST:
            return sizes


def choose(rng: np.random.Generator, labels: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """Training rows shop by shop, and each one's shop."""
    stock = [list(rng.permutation(np.flatnonzero(labels == label))) for label in range(len(CLASS_NAMES))]
    rows: list[int] = []
    sizes = shop_sizes(rng)
    for size in sizes:
        counts = rng.multinomial(size, rng.dirichlet([ALPHA] * len(CLASS_NAMES)))
        own = [stock[label].pop() for label, count in enumerate(counts) for _ in range(count)]
        rows += list(rng.permutation(own))
    shops = np.repeat([f"shop-{number:02d}" for number in range(1, SHOPS + 1)], sizes)
    return np.array(rows, np.int64), shops


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the sample data from Fashion-MNIST's IDX files.")
    parser.add_argument("folder", type=Path, help="folder with the IDX files")
    parser.add_argument("--out", type=Path, default=TARGET)
    args = parser.parse_args()
    rng = np.random.default_rng(SEED)
    train_images, train_labels = read_part(args.folder, "train")
    test_images, test_labels = read_part(args.folder, "test")
    rows, shops = choose(rng, train_labels)
    test_rows = np.sort(
        np.concatenate([rng.permutation(np.flatnonzero(test_labels == label))[:TEST_PER_CLASS] for label in range(10)])
    )
    np.savez_compressed(
        args.out,
        images=np.concatenate([train_images[rows], test_images[test_rows]]),
        labels=np.concatenate([train_labels[rows], test_labels[test_rows]]),
        clients=np.concatenate([shops, np.repeat("", len(test_rows))]),
    )


if __name__ == "__main__":
    main()
