"""The workspace this code location stands for: the folder that holds ``assets/``."""

from pathlib import Path

from nsync_pipeline.workspace import Workspace

WORKSPACE = Workspace(Path(__file__).resolve().parents[1])
