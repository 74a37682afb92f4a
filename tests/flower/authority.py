"""An authority's folder for tests."""

from __future__ import annotations

import pytest

from fedlens.flower import signing
from fedlens.flower.certificates import (
    create,
)

HOSTS = ("server.example.org", "192.0.2.7")


def made_at(moment, folder, days=10):
    """A folder made at another time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signing, "now", lambda: moment)
        create(folder, HOSTS, ["client1"], days)
    return folder
