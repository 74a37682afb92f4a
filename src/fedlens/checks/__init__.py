"""What a block of one's own has to do, tried on small made-up images: `fedlens check`."""
