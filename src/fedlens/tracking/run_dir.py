"""The folder of one run, and the names of its files."""

from __future__ import annotations

import fcntl
import platform
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from fedlens.core.files import read_regular, write_atomic, write_json
from fedlens.core.yaml_text import read_file
from fedlens.errors import ConfigError, FedLensError
from fedlens.tracking.saved import Data, Partition, read_saved
from fedlens.tracking.versions import collect_versions

if TYPE_CHECKING:  # importing torch would delay commands that only read runs
    from fedlens.core.types import ClientInfo
    from fedlens.data.types import FederatedData

_LONGEST_NAME = 80
_LONGEST_HOST = 256

_HELD: set[Path] = set()
"""Runs that this process trains: a record lock is the process' own, and is lost when it closes the file anywhere."""

_LOOK_SECONDS = 0.2
"""How long a lock may be held by somebody who looks whether a run is being trained."""


@dataclass(frozen=True)
class RunDir:
    """One run's folder. `create` makes a new one, `open` finds an existing one."""

    path: Path

    @classmethod
    def create(cls, base: Path, name: str) -> RunDir:
        """Create `base/<name>-<YYYYmmdd-HHMMSS>`; a second run in the same second gets `-2`, and so on.

        Raises:
            ConfigError: the folder cannot be created.
        """
        stem = f"{clean_name(name)}-{datetime.now():%Y%m%d-%H%M%S}"
        try:
            base.mkdir(parents=True, exist_ok=True)
            path = _make_unique(base, stem)
            for folder in ("checkpoints", "model"):
                (path / folder).mkdir()
        except OSError as error:
            raise ConfigError(
                f"tracking.dir: no run folder can be made in {str(base)!r} ({error.strerror}); choose another folder",
                code="unwritable",
                key="tracking.dir",
            ) from error
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """The run in `path`, which may be `latest`: see `newest`.

        Raises:
            ConfigError: there is no run; the message lists those in the same place.
        """
        run = cls(newest(path))
        if not run.is_run:
            raise ConfigError(_no_run(path), code="not_found", key=str(path))
        return run

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def is_run(self) -> bool:
        """Whether a run began here. A config.yaml alone makes no run: experiments are kept so, too."""
        return self.config.is_file() and (self.checkpoints.is_dir() or self.metrics.exists())

    @property
    def config(self) -> Path:
        """The resolved configuration (YAML)."""
        return self.path / "config.yaml"

    @property
    def first_config(self) -> Path:
        """The configuration as the run began (YAML); missing while `config` is still that."""
        return self.path / "config-first.yaml"

    @property
    def versions(self) -> Path:
        """Software, machine and git state (JSON)."""
        return self.path / "versions.json"

    @property
    def metrics(self) -> Path:
        """One JSON line per round."""
        return self.path / "metrics.jsonl"

    @property
    def confusion(self) -> Path:
        """The confusion matrices of the last evaluation (JSON)."""
        return self.path / "confusion.json"

    @property
    def pictures(self) -> Path:
        """Thumbnails of test images, with the final model's predictions (JSON)."""
        return self.path / "pictures.json"

    @property
    def nearest_texts(self) -> Path:
        """Some test images with the texts that a dual encoder finds nearest (JSON)."""
        return self.path / "nearest-texts.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def rounds_done(self) -> int:
        """The round of the newest checkpoint; 0 without one."""
        names = (path.name.removeprefix("round-") for path in self.checkpoints.glob("round-*"))
        return max((int(name) for name in names if name.isdecimal()), default=0)

    @property
    def model(self) -> Path:
        """Folder of the final model."""
        return self.path / "model"

    @property
    def fingerprint(self) -> Path:
        """Fingerprint of the images when the run began (JSON)."""
        return self.path / "data-key.json"

    @property
    def superlink(self) -> Path:
        """Folder of the SuperLink, if the run's clients are on other machines."""
        return self.path / "superlink"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def partition(self) -> Path:
        """Number of images per client and class (JSON)."""
        return self.path / "partition.json"

    @property
    def cross_site(self) -> Path:
        """Each client's own model on each client's test images (JSON), if `federated.cross_site` asked for it."""
        return self.path / "cross-site.json"

    @property
    def data(self) -> Path:
        """What was read and what was skipped (JSON)."""
        return self.path / "data.json"

    @property
    def unit(self) -> str:
        """The singular of what the model takes, as `DataReport.unit`."""
        found = read_saved(self.data, Data) if self.data.exists() else {}
        return str(found.get("unit", "image"))

    @property
    def result(self) -> Path:
        """Why and when the run ended (JSON); missing until then."""
        return self.path / "result.json"

    @property
    def failure(self) -> Path:
        """Why and when the last attempt failed (JSON); missing otherwise."""
        return self.path / "failure.json"

    @property
    def is_in_use(self) -> bool:
        """Whether a process of this machine is training the run."""
        if self.path.resolve() in _HELD:  # opening and closing the file would let the lock go
            return True
        try:
            with (self.path / "lock").open("rb") as lock:
                fcntl.lockf(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    @property
    def host(self) -> str:
        """The machine that trained the run last; empty where that was not written down."""
        try:
            return read_regular(self.path / "lock", _LONGEST_HOST).decode(errors="replace").strip()
        except OSError:
            return ""

    @contextmanager
    def exclusive_lock(self) -> Iterator[None]:
        """Lock the folder during a run: two processes at once would mix their rounds.

        It is a record lock, because forked workers do not inherit it: a killed run can be resumed at once, even if its
        workers have not ended yet.

        Raises:
            ConfigError: another process uses it, or the folder cannot be written.
        """
        with ExitStack() as held:
            try:
                lock = held.enter_context((self.path / "lock").open("a"))
                _lock(lock)
                lock.truncate(0)
                print(platform.node(), file=lock, flush=True)
                _HELD.add(self.path.resolve())
                held.callback(_HELD.discard, self.path.resolve())
            except BlockingIOError as error:
                raise ConfigError(
                    f"{str(self.path)!r}: another process is training this run; wait for its end, or stop it first",
                    code="in_use",
                    key=str(self.path),
                ) from error
            except OSError as error:
                raise ConfigError(
                    f"{str(self.path)!r} cannot be held ({error.strerror}); copy the run to another folder",
                    code="unwritable",
                    key=str(self.path),
                ) from error
            yield

    @contextmanager
    def last_word(self) -> Iterator[None]:
        """Write `failure.json` if what is done meanwhile fails. An interruption is no failure."""
        self.failure.unlink(missing_ok=True)
        try:
            yield
        except Exception as error:
            told = str(error) if isinstance(error, FedLensError) else f"{type(error).__name__}: {error}"
            with suppress(OSError):  # a full disk, perhaps, is why it failed
                write_json(self.failure, {"error": told, "ended": _now()})
            raise

    def save_config(self, text: str) -> None:
        """Write `config.yaml`; the first one stays beside it where this is another."""
        before = self.config.read_text(encoding="utf-8") if self.config.exists() else text
        if before != text and not self.first_config.exists():
            write_atomic(self.first_config, before)
        write_atomic(self.config, text)

    def save_versions(self, device: str) -> None:
        """Write `versions.json`: packages, Python, platform, cores, `device`, git commit of the current folder."""
        write_json(self.versions, collect_versions(device))

    def save_data(
        self, data: FederatedData, clients: Sequence[ClientInfo], display: Mapping[str, str] | None = None
    ) -> None:
        """Write `partition.json` (class counts of every client's splits and of the global test set, training rows
        without a label, a digest of the assignment of rows to clients, and `display`: class → its name for people) and
        `data.json`."""
        unlabelled = {client.name: client.unlabelled for client in clients if client.unlabelled and not client.hidden}
        write_json(
            self.partition,
            {
                "class_names": list(data.class_names),
                "clients": {client.name: client.counts for client in clients if not client.hidden},
                "test": data.class_counts(data.test).tolist(),
                "division": data.division,
                **({"display": dict(display)} if display else {}),
                **({"unlabelled": unlabelled} if unlabelled else {}),
            },
            indent=None,
        )
        write_json(self.data, asdict(data.report))

    def divides(self, data: FederatedData) -> bool:
        """Whether the run's clients hold the same rows as those of `data`; also True before the run has begun. Runs of
        older versions did not store this, and may have divided classes in another order: False."""
        return not self.partition.exists() or read_saved(self.partition, Partition).get("division") == data.division

    def finish(self, reason: str) -> None:
        """Write `result.json`: the run has ended, and the reason (all rounds, target reached, …)."""
        write_json(self.result, {"reason": reason, "ended": _now()})


def clean_name(name: str) -> str:
    """`name` as a valid folder name: letters, digits and `. _ - =` are kept, any sequence of other characters becomes
    `-`."""
    return re.sub(r"[^\w.=-]+", "-", name).strip(".-")[:_LONGEST_NAME] or "run"


LATEST = "latest"
LOGS = Path("logs")
"""The folder of runs unless tracking.dir names another."""


def newest(path: Path) -> Path:
    """`path` with `latest` replaced by the newest run: `latest` and `latest/best` refer to those below ./logs,
    `DIR/latest` to those below DIR. An existing file or folder with this name takes precedence.

    Raises:
        ConfigError: there is no run.
    """
    if LATEST not in path.parts or path.exists():
        return path
    place = path.parts.index(LATEST)
    base = Path(*path.parts[:place]) if place else LOGS
    runs = find_runs(base) if base.is_dir() else []
    if not runs:
        raise ConfigError(
            f"{str(path)!r}: there is no run in {str(base)!r} yet; `fedlens run` makes one",
            code="not_found",
            key=str(path),
        )
    return runs[-1].path.joinpath(*path.parts[place + 1 :])


def find_runs(base: Path) -> list[RunDir]:
    """The runs at `base`: the folder itself, or those in it and in its sub-folders (sweeps), oldest first."""
    if RunDir(base).is_run:
        return [RunDir(base)]
    return _runs_below(base)


def runs_in(folders: Sequence[Path]) -> list[RunDir]:
    """The runs in all of these, each once. A folder is a run, `latest` (see `newest`), or holds runs.

    Raises:
        ConfigError: there is none.
    """
    found = {run.path.resolve(): run for folder in folders for run in find_runs(newest(folder))}
    if not found:
        raise ConfigError(
            f"no run in {', '.join(map(str, folders))}: `fedlens run` makes one", code="not_found", key=str(folders[0])
        )
    return list(found.values())


def configuration(run: RunDir) -> dict[str, Any]:
    """The run's configuration; empty if there is none."""
    if not run.config.exists():
        return {}
    found: dict[str, Any] = read_file(run.config).tree
    return found


def _runs_below(base: Path) -> list[RunDir]:
    configs: Iterable[Path] = (*base.glob("*/config.yaml"), *base.glob("*/*/config.yaml"))
    by_age = sorted(configs, key=lambda config: (config.stat().st_mtime, config))
    return [run for run in (RunDir(config.parent) for config in by_age) if run.is_run]


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _lock(file: TextIO) -> None:
    """Lock it for this process alone. Whoever looks at runs holds it for a moment, too, so that is waited for.

    Raises:
        BlockingIOError: another process keeps it.
    """
    ends = time.monotonic() + _LOOK_SECONDS
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > ends:
                raise
            time.sleep(_LOOK_SECONDS / 10)


def _make_unique(base: Path, stem: str) -> Path:
    path, number = base / stem, 1
    while True:
        try:
            path.mkdir()
            return path
        except FileExistsError:
            number += 1
            path = base / f"{stem}-{number}"


def _no_run(path: Path) -> str:
    if not path.exists():
        problem = f"{str(path)!r} does not exist"
    else:
        problem = f"{str(path)!r} is no run: one has config.yaml, and checkpoints or metrics.jsonl"
    folders = [folder for folder in (path, path.parent) if folder.is_dir()]
    runs = [run for folder in folders for run in _runs_below(folder)]
    beside = list(dict.fromkeys(str(run.path) for run in runs))
    return f"{problem}. " + (f"Runs nearby: {', '.join(beside[-5:])}" if beside else "`fedlens run` makes one.")
