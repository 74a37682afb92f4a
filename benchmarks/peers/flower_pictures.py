"""The data as Flower's PyTorch quick start has it: a Hugging Face data set of pictures, dealt out by flwr-datasets."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from datasets import Dataset, Features, Value, disable_progress_bars, load_from_disk
from datasets import Image as Picture
from flwr_datasets.partitioner import IidPartitioner
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import ToTensor
from workload import Workload, clients

STORE = Path(__file__).parents[1] / ".flower-data"


def prepare(workload: Workload) -> None:
    """Write the pictures to disk as PNG inside Arrow, once; not part of any timing."""
    folder = STORE / workload.name
    if folder.exists():
        return
    disable_progress_bars()
    rows: dict[str, list[object]] = {"image": [], "label": []}
    for images, labels in clients(workload):
        rows["image"] += [
            Image.fromarray(pixels.squeeze()) for pixels in images.permute(0, 2, 3, 1).mul(255).round().byte().numpy()
        ]
        rows["label"] += labels.tolist()
    Dataset.from_dict(rows, features=Features({"image": Picture(), "label": Value("int64")})).save_to_disk(folder)


@lru_cache(maxsize=1)
def partitioner(workload: Workload) -> IidPartitioner:
    """Deals out the pictures; kept by an actor process between messages, as the quick start keeps it."""
    disable_progress_bars()
    dealer = IidPartitioner(num_partitions=workload.clients)
    dealer.dataset = load_from_disk(STORE / workload.name)
    return dealer


def loader(workload: Workload, partition: int) -> DataLoader[dict[str, object]]:
    """One client's shuffled batches, decoded and turned into tensors picture by picture."""
    to_tensor = ToTensor()

    def transform(batch: dict[str, list[object]]) -> dict[str, list[object]]:
        return {"image": [to_tensor(picture) for picture in batch["image"]], "label": batch["label"]}

    pictures = partitioner(workload).load_partition(partition).with_transform(transform)
    return DataLoader(pictures, batch_size=workload.batch, shuffle=True)
