"""Bringing a folder's pictures and captions into ``sources/``; the folder itself is only read."""

import filecmp
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nsync_pipeline.errors import CaptionError, PictureError, bullet_list
from nsync_pipeline.style_set.source_folder import READERS, SourceFolder, read_metadata, source_name

README = "README.md"


@dataclass(frozen=True)
class CopyPlan:
    """What is to be done to bring the files in."""

    new: Mapping[str, Path]  # by name in the destination: where from
    kept: tuple[str, ...]  # there already, with the same bytes
    others: tuple[str, ...]  # there already, and not among the files


def files_of(source: SourceFolder, folder: Path, captioned_only: bool) -> dict[str, Path]:
    """The files to copy, by name: pictures, their own captions, and the metadata files."""
    files = {source_name(path, folder): path for path in source.metadata}
    for picture in source.pictures:
        if picture.caption is None and captioned_only:
            continue
        files[picture.name] = picture.path
        if picture.caption_file is not None:
            files[source_name(picture.caption_file, folder)] = picture.caption_file
    return dict(sorted(files.items()))


def plan_copy(files: Mapping[str, Path], destination: Path) -> CopyPlan:
    """Compare ``files`` with what ``destination`` holds.

    A metadata file there may be replaced by one that says the same and more.

    Raises:
        PictureError: files of the same names are there with other content.
    """
    new: dict[str, Path] = {}
    kept, changed = [], []
    for name, path in files.items():
        there = destination / name
        if not there.exists():
            new[name] = path
        elif filecmp.cmp(path, there, shallow=False):
            kept.append(name)
        elif path.name in READERS and _says_more(path, there):
            new[name] = path
        else:
            changed.append(name)
    if changed:
        raise PictureError(
            f"{destination} has files of these names with other content:\n{bullet_list(changed)}\n"
            "None of them is overwritten: give the new ones other names, or change those by hand."
        )
    return CopyPlan(new, tuple(kept), tuple(_others(destination, files)))


def _says_more(path: Path, there: Path) -> bool:
    try:
        before = {row.picture: row.caption for row in read_metadata(there) if row.caption}
        after = {row.picture: row.caption for row in read_metadata(path)}
    except CaptionError:
        return False
    return all(after.get(picture) == caption for picture, caption in before.items())


def _others(destination: Path, files: Mapping[str, Path]) -> list[str]:
    """What is in ``destination``, not hidden, and neither its README nor one of ``files``."""
    names = (source_name(p, destination) for p in destination.rglob("*") if p.is_file())
    return sorted(n for n in names if n not in {README, *files} and not n.startswith("."))


def copy_in(plan: CopyPlan, destination: Path) -> None:
    """Copy the new files of ``plan`` to ``destination``, beside it first.

    A new destination then appears whole; in an existing one each file does.
    """
    partial = destination.with_name(f".{destination.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    if not plan.new:
        return
    try:
        for name, path in plan.new.items():
            target = partial / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        if not destination.exists():
            partial.rename(destination)
            return
        # Pictures before the metadata that speaks of them.
        for name in sorted(plan.new, key=lambda name: (Path(name).name in READERS, name)):
            target = destination / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (partial / name).replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
