"""The measured comparisons, each a command that prints its figures: ``python -m benchmarks.X``."""
