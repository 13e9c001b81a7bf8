"""The command line, ``nsync``."""

from nsync_pipeline.cli.app import main

__all__ = ["main"]
