"""Sources of images, one per file, each registered by name."""
