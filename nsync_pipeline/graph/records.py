"""What stages said of their artefacts, kept by content.

An artefact that DVC restores from its cache is restored without running a stage. What was said of
it when it was made is found by its digest, so Dagster shows the right figures and previews then,
too. These records belong to the machine: where one is missing, nothing else is.

What was made from which inputs is kept in a folder of ``Workspace.made``: so an ablation knows what
it need not make again.
"""

import base64
import hashlib
import json
from pathlib import Path

from nsync_pipeline.stage import Preview, StageResult
from nsync_pipeline.workspace import Workspace


def write_record(workspace: Workspace, digest: str, result: StageResult) -> None:
    """Keep ``result`` for the artefact with this DVC digest."""
    content = {
        "figures": dict(result.figures),
        "previews": [
            {"title": p.title, "jpeg": base64.b64encode(p.jpeg).decode()} for p in result.previews
        ],
    }
    path = _path(workspace, digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content), encoding="utf-8")
    partial.replace(path)


def read_record(workspace: Workspace, digest: str) -> StageResult | None:
    """What was said of the artefact ``digest``; None where it was made on another machine."""
    path = _path(workspace, digest)
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    previews = tuple(Preview(p["title"], base64.b64decode(p["jpeg"])) for p in content["previews"])
    return StageResult(content["figures"], previews)


def write_made(folder: Path, slot: str, inputs: str, artefact: str) -> None:
    """Keep the digest of the artefact that the stage of ``slot`` made of these inputs."""
    path = _made_path(folder, slot, inputs)
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(artefact, encoding="utf-8")
    partial.replace(path)


def read_made(folder: Path, slot: str, inputs: str) -> str | None:
    """The digest of what was made of these inputs; None where nothing was."""
    path = _made_path(folder, slot, inputs)
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _made_path(folder: Path, slot: str, inputs: str) -> Path:
    name = hashlib.blake2b(f"{slot} {inputs}".encode(), digest_size=16).hexdigest()
    return folder / f"{name}.txt"


def _path(workspace: Workspace, digest: str) -> Path:
    return workspace.state / "records" / f"{digest}.json"
