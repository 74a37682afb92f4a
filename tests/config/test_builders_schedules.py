"""What a configuration makes of schedules and clocks."""

import pytest

from fedlens.build.builders import build_plan
from fedlens.build.experiment import kept_versions
from fedlens.build.load import load
from fedlens.schedules.fedasync import FedAsync
from fedlens.schedules.sync import Sync


@pytest.mark.parametrize(
    ("overrides", "versions"),
    [
        ((), 4),  # two checkpoints, and two rounds on their way
        (("tracking.keep_checkpoints=3", "schedule.name=fedasync"), 5),
        # a step may count as many updates of one client as the buffer holds
        (("schedule.name=fedbuff",), 40),
        (("schedule.name=fedbuff", "schedule.concurrency=6"), 24),
        (("schedule.name=fedbuff", "schedule.buffer_size=3"), 12),
    ],
)
def test_clients_keep_what_any_checkpoint_may_ask_for(overrides, versions: int) -> None:
    assert kept_versions(load(None, overrides)) == versions


def test_the_schedule_is_the_plans() -> None:
    assert build_plan(load()).protocol.__self__ == Sync()
    overrides = ["schedule.name=fedasync", "schedule.mixing=0.9", "schedule.staleness=hinge", "schedule.a=10"]
    assert build_plan(load(None, overrides)).protocol.__self__ == FedAsync(mixing=0.9, staleness="hinge", a=10)
