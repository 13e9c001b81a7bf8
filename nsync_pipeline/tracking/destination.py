"""The tracking server figures are delivered to."""

import os
from pathlib import Path

OWN = ""
"""Stands for the workspace's own store in the spool, so that a workspace can be moved."""


def configured_uri() -> str:
    """``MLFLOW_TRACKING_URI``, or ``OWN`` where it is not set."""
    return os.environ.get("MLFLOW_TRACKING_URI", "").strip() or OWN


def resolved_uri(uri: str, tracking: Path) -> str:
    """The URI for MLflow: a database file in the workspace where ``uri`` is ``OWN``."""
    return f"sqlite:///{tracking.absolute() / 'mlflow.db'}" if uri == OWN else uri


def artifact_location(uri: str, tracking: Path) -> str | None:
    """Where a new experiment keeps its files; None leaves it to the server."""
    return (tracking.absolute() / "artifacts").as_uri() if uri == OWN else None


def is_remote(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))
