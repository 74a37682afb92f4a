"""No claim of privacy: updates travel as they are."""

from __future__ import annotations

from dataclasses import dataclass

from fedlens.privacy.base import PrivacyMode, privacy_modes


@privacy_modes.register(
    "none", summary="no claim: an update can tell something of the images that it was computed from"
)
@dataclass(frozen=True)
class NoPrivacy(PrivacyMode):
    """Nothing is clipped, and no noise is added."""
