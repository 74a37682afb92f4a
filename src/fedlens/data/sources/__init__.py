"""Where images come from: one file a source, each registered by name."""

from fedlens.data.detect import detect

__all__ = ["detect"]
