"""What settings cost on this machine: seconds and memory of short runs, and which settings to take."""
