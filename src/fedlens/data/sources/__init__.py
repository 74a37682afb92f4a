"""Sources of images, one per file, each registered by name."""

from fedlens.data.detect import detect

__all__ = ["detect"]
