"""NSYNC: style learning by contrast with negative synthetic images (arXiv 2511.01517)."""

__version__ = "0.1.0"
