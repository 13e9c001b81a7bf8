"""``nsync`` as a person starts it."""

import subprocess
import sys
from pathlib import Path


def nsync(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nsync_pipeline.cli", *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
