"""What limits a run, and what to change: findings, each with its evidence from the run's files."""
