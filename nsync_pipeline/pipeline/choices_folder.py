"""The folder of people's choices: DVC wants it there, and git keeps no empty one."""

from collections.abc import Iterable
from pathlib import Path

from nsync_pipeline.artifacts import Workspace

README = "README.md"
TEXT = """\
What people chose on blind pages of `{style}`, a file each: `nsync blind make {style}` writes a
page, `nsync blind read` brings in what people saved of it, and the report shows it.
The files are people's own work and cannot be made again: keep them in git.
"""


def without_choices_folder(workspace: Workspace, styles: Iterable[str]) -> list[str]:
    """Those of ``styles`` that have none yet."""
    return [style for style in styles if not workspace.choices(style).is_dir()]


def make_choices_folder(workspace: Workspace, style: str) -> Path:
    """Make ``choices/<style>`` with a file that says what it is for; gives the folder."""
    folder = workspace.choices(style)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / README).write_text(TEXT.format(style=style), encoding="utf-8")
    return folder
