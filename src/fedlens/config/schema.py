"""The typed configuration. Every key has a default; `description` is what editors and `docs/` show.

Sections that name a registered block (`blocks.FAMILIES`) keep the block's own keys as extras; `config.load` validates
those against the block's dataclass.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from fedlens.core.limits import (
    Classes,
    Clients,
    ClientsOrNone,
    Fraction,
    Layers,
    Number,
    Seed,
    Side,
    Times,
    TimesOrNever,
    Workers,
)
from fedlens.core.section import BlockSection, Section
from fedlens.data.sections import ModalitiesSection
from fedlens.federation.stopping import StoppingSection
from fedlens.models.sections import LoraSection
from fedlens.training.sections import Graph, MemorySection, OptimizerSection, TransferSection


def _usable(path: Path) -> Path:
    """A path that the system can look up.

    Raises:
        ValueError: it begins with the home of nobody known, or holds a zero byte.
    """
    try:
        path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"the home folder {path.parts[0]} is not known; give the whole path") from error
    if "\0" in str(path):
        raise ValueError("a path holds no zero bytes")
    return path


AnyPath = Annotated[Path, AfterValidator(_usable)]
ModuleName = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*$")]
RayAddress = Annotated[str, Field(pattern=r"^(auto|[^\s/]+:\d{1,5})$", examples=["auto", "10.0.0.5:6379"])]


class ModelSection(BlockSection):
    name: str = Field("cnn", description="a name that `fedlens models` lists, or timm:<architecture>")
    pretrained: bool = Field(False, description="start from ImageNet weights (cache, package or download)")
    num_classes: Classes | None = Field(None, description="outputs of the head; default: the classes in the data")
    weights: AnyPath | None = Field(None, description="a local weights file (.safetensors or .pth) to start from")
    freeze: Layers | ModuleName = Field(
        "none", description="backbone (train the head only), a number of stages, or the name of the last frozen module"
    )
    lora: LoraSection = Field(default_factory=LoraSection)
    norm: Literal["batch", "group"] = Field("batch", description="group: GroupNorm in place of BatchNorm")


class FederatedSection(Section):
    num_rounds: Times = Field(20, description="rounds of the federation")
    fraction_fit: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="share of the clients trained a round")
    min_fit_clients: Clients = Field(2, description="fewest clients trained a round")
    local_epochs: Times = Field(1, description="passes over a client's images a round")
    batch_size: Number = Field(32, description="images a step")
    over_selection: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0,
        description="server, or a clock: ask so many more clients (0.2: a fifth) and take the first that answer",
    )
    round_deadline: Annotated[float, Field(gt=0)] | None = Field(
        None, description="server: seconds that a client has to answer in; default: an hour"
    )
    edges: ClientsOrNone = Field(
        0, description="simulation: edge aggregators, each of which sends the server one sum of its clients; 0: none"
    )
    quorum: Clients = Field(1, description="fewest results a round counts with; with fewer it is repeated")
    evaluate_every: TimesOrNever = Field(1, description="global evaluation every k rounds; 0: last only")
    evaluate_clients_every: TimesOrNever = Field(
        5, description="evaluation on the clients' own test images every k rounds and at the end; 0: never"
    )
    missing_modalities: Literal["by_part", "average", "drop_clients"] = Field(
        "by_part",
        description="images and texts: image part weighed by images and text part by texts (by_part), all by "
        "rows (average), or clients that lack one do not train (drop_clients)",
    )
    cross_site: bool = Field(
        False, description="at the end, each client's own model on each client's test images: models travel for that"
    )


class ServerSection(Section):
    """`fedlens server`: where clients on other machines connect."""

    address: str = Field("0.0.0.0:8080", description="host:port; without certificates, this machine's clients only")
    certs: AnyPath | None = Field(
        None, description="folder of `fedlens certs create`: TLS, and only registered clients"
    )
    insecure: bool = Field(False, description="serve other machines without TLS: closed networks and tests only")
    database: bool = Field(
        False, description="Flower keeps messages on disk, not in memory: slower, survives its death"
    )
    rejoin_seconds: Annotated[float, Field(ge=0)] = Field(
        30.0, description="how long a round waits for a client that was lost, once all others have answered"
    )
    max_examples: Number = Field(10_000_000, description="most images that a client may claim: it is counted by them")
    max_weight_share: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="largest share of a step's weight that one client may have: where clients do not trust each other",
    )
    max_classes: Classes = Field(
        1000, description="most classes that the clients may bring in, where the server has no images"
    )


class PartitionSection(BlockSection):
    scheme: str = Field("auto", description="auto: the data's own clients, else dirichlet; see `fedlens data schemes`")
    clients: Clients | None = Field(None, description="number of clients (default 10); not with data that has its own")
    seed: Seed | None = Field(None, description="seed of the split; default: the run's seed")
    pooled: bool = Field(False, description="then all clients' images in one place, as one client: no federation")


class DataSection(BlockSection):
    source: str = Field("auto", description="auto: the sample, or what data.path holds; see `fedlens data sources`")
    path: AnyPath | None = Field(None, description="folder or file of the source")
    image_size: Side | None = Field(None, description="pixels a side; default: what suits model and data")
    augment: Literal["none", "flip", "crop_flip", "randaugment"] = Field("none", description="on training batches")
    validation: Fraction = Field(0.1, description="share of each client's rows held out for validation")
    client_test: Fraction = Field(0.1, description="share of each client's rows held out for its own test")
    test: Fraction = Field(0.2, description="share held out as the global test set when the source has none")
    on_bad_image: Literal["skip", "fail"] = Field("skip", description="an image that cannot be decoded")
    max_pixels: Number = Field(
        100_000_000, description="an image of more is read in a reduced size where it is JPEG, else not at all"
    )
    cache_dir: AnyPath | None = Field(None, description="decoded images; default: the user's cache folder")
    partition: PartitionSection = Field(default_factory=PartitionSection)
    modalities: ModalitiesSection = Field(default_factory=ModalitiesSection)
    held_out: tuple[str, ...] = Field(
        (), description="classes that nobody trains on; a dual encoder is tested on recognising them by their names"
    )


class StrategySection(BlockSection):
    name: str = Field("fedavg", description="a name that `fedlens strategies` lists")


class PersonalizationSection(BlockSection):
    name: str = Field("none", description="what stays with a client: a name that `fedlens strategies` lists")


class AggregationSection(BlockSection):
    name: str = Field("mean", description="how updates are combined: a name that `fedlens strategies` lists")


class CompressionSection(BlockSection):
    name: str = Field("none", description="how updates are made smaller: a name that `fedlens strategies` lists")


class PrivacySection(BlockSection):
    mode: str = Field("none", description="who adds noise, to what: a mode that `fedlens strategies` lists")
    secure_aggregation: bool = Field(False, description="the server sees the sum of a round's updates, and no update")
    secure_threshold: Annotated[float, Field(ge=0.5, le=1)] = Field(
        2 / 3,
        description="fraction of a round's clients that has to stay to its end, always above half; fewer open nothing",
    )
    secure_neighbours: Clients | None = Field(
        None, description="clients with which each client has masks; default: all, in large rounds as SecAgg+ has it"
    )
    secure_bits: Literal[32, 64] = Field(64, description="size of a masked number: 32 halves what clients send")
    secure_largest: Annotated[float, Field(gt=0)] | None = Field(
        None, description="largest coordinate of an update; default: 65536 with 64 bits, 4 with 32"
    )


class AttackSection(BlockSection):
    name: str = Field("none", description="what malicious clients of a simulation do; see `fedlens strategies`")
    fraction: Fraction = Field(0.2, description="share of the clients that is malicious, rounded down")


class ScheduleSection(BlockSection):
    name: str = Field("sync", description="when the server steps: a name that `fedlens strategies` lists")


class ClockSection(BlockSection):
    name: str = Field("none", description="how fast simulated clients are: a name that `fedlens strategies` lists")


class RuntimeSection(Section):
    name: Literal["local", "in_process", "ray"] = Field(
        "local", description="local: worker processes; in_process: none; ray: actors of a Ray cluster"
    )
    workers: Workers | Literal["auto"] | None = Field(
        None,
        description="processes; default: the cores (1 on a GPU), ray: all nodes'; auto: as many, with as many threads, "
        "as are fastest in short runs before the first round",
    )
    address: RayAddress | None = Field(
        None, description="ray: host:port of a running cluster, or auto; default: a Ray of this machine alone"
    )
    threads_per_worker: Workers = Field(1, description="PyTorch threads in a worker")
    vectorize: Workers = Field(
        1, description="clients that a worker trains together, as one computation; 1: one after the other"
    )
    graph: Graph = Field(
        False,
        description="replay steps from a CUDA graph; auto: on an NVIDIA GPU, where that is faster; true: wherever it "
        "can be done; false: never",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="auto, cpu, cuda, cuda:<n> or mps",
        examples=["auto", "cpu", "cuda", "cuda:1", "mps"],
    )

    @property
    def named_workers(self) -> int | None:
        """`workers`, where it is a number."""
        return None if self.workers == "auto" else self.workers


class TrackingSection(Section):
    dir: AnyPath = Field(Path("logs"), description="folder that holds the run folders")
    name: str | None = Field(None, description="first part of the run folder's name; default: algorithm-model")
    tensorboard: bool = Field(True, description="write TensorBoard events")
    mlflow: bool = Field(False, description="write to MLflow; MLFLOW_TRACKING_URI says where; extra mlflow")
    wandb: bool = Field(False, description="write to Weights & Biases; offline without a key; extra wandb")
    report: bool = Field(True, description="write report.html at the end")
    pictures: bool = Field(
        True,
        description="show test images in the report and in trackers, and texts of test rows in a dual encoder's report",
    )
    names: str | None = Field(
        None,
        description="names of the classes in the report and the trackers' pictures: a language that ships (zh), or a "
        'JSON file, {"class": "name"}',
    )
    updates: bool = Field(False, description="measure how far the clients' updates agree: costs one more sum")
    leave_one_out: TimesOrNever = Field(
        0,
        description="every k rounds, what each update does to the validation accuracy: the round without it; 0: never",
    )
    keep_checkpoints: Annotated[Times, Field(ge=2)] = Field(2, description="how many checkpoints stay on disk")


class Config(Section):
    """A whole experiment."""

    model: ModelSection = Field(default_factory=ModelSection)
    federated: FederatedSection = Field(default_factory=FederatedSection)
    data: DataSection = Field(default_factory=DataSection)
    strategy: StrategySection = Field(default_factory=StrategySection)
    personalization: PersonalizationSection = Field(default_factory=PersonalizationSection)
    aggregation: AggregationSection = Field(default_factory=AggregationSection)
    compression: CompressionSection = Field(default_factory=CompressionSection)
    privacy: PrivacySection = Field(default_factory=PrivacySection)
    attack: AttackSection = Field(default_factory=AttackSection)
    schedule: ScheduleSection = Field(default_factory=ScheduleSection)
    clock: ClockSection = Field(default_factory=ClockSection)
    optimizer: OptimizerSection = Field(default_factory=OptimizerSection)
    transfer: TransferSection = Field(default_factory=TransferSection)
    memory: MemorySection = Field(default_factory=MemorySection)
    runtime: RuntimeSection = Field(default_factory=RuntimeSection)
    stopping: StoppingSection = Field(default_factory=StoppingSection)
    tracking: TrackingSection = Field(default_factory=TrackingSection)
    server: ServerSection = Field(default_factory=ServerSection)
    plugins: list[AnyPath] = Field(default_factory=list, description="Python files with your own blocks")
    seed: Seed = Field(0, description="seed of everything")
