"""Questions about open checkpoints; answers are data."""
