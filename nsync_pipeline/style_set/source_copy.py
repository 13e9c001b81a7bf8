"""Bringing a folder's pictures and captions into ``sources/``; the folder itself is only read."""

import filecmp
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from nsync_pipeline.errors import CaptionError, PictureError
from nsync_pipeline.files import named_list, partial_folder, put_in_place, settle
from nsync_pipeline.given_files import given_files, given_name
from nsync_pipeline.style_set.source_folder import (
    READERS,
    MetadataRow,
    Problem,
    SourceFolder,
    metadata_rows,
    read_caption_file,
    read_metadata,
    with_rows,
)

README = "README.md"
Content = Path | bytes
"""Of a file to bring in: where it is, or what it holds."""


@dataclass(frozen=True)
class CopyPlan:
    """What is to be done to bring the files in."""

    new: Mapping[str, Content]  # by name in the destination
    kept: tuple[str, ...]  # there already, with the same bytes
    others: tuple[str, ...]  # there already, and not among the files


def files_of(source: SourceFolder, folder: Path, accepted: Collection[str]) -> dict[str, Content]:
    """The files to copy, by name: the accepted pictures, their own captions, and metadata files.

    Of a metadata file that speaks of others, too, only the rows of accepted pictures come.
    """
    files: dict[str, Content] = {}
    for path in source.metadata:
        name = given_name(path, folder)
        above = name.removesuffix(path.name)
        rows = [row for row in read_metadata(path) if row.caption is not None]
        wanted = [row for row in rows if above + row.picture in accepted]
        if wanted:
            files[name] = path if len(wanted) == len(rows) else with_rows(path.name, wanted)
    for picture in source.pictures:
        if picture.name in accepted:
            files[picture.name] = picture.path
            if picture.caption_file is not None:
                files[given_name(picture.caption_file, folder)] = picture.caption_file
    return dict(sorted(files.items()))


def refuse_unversionable(folder: Path) -> None:
    """Raise a PictureError where ``folder`` holds what must not be versioned, or cannot be."""
    if folder.is_dir() and (refused := given_files(folder).refused):
        listed = [Problem(name, reason) for name, reason in refused.items()]
        raise PictureError(
            f"{folder} holds what cannot be versioned:\n"
            f"{named_list(listed, None)}\nMend or take them out of it."
        )


def plan_copy(files: Mapping[str, Content], destination: Path, listing: Path) -> CopyPlan:
    """Compare ``files`` with what ``destination`` holds.

    A metadata file there may be replaced by one that says the same and more.

    Raises:
        PictureError: files of the same names are there with other content.
    """
    new: dict[str, Content] = {}
    kept, changed = [], []
    there = given_files(destination).files if destination.is_dir() else {}
    for name, content in files.items():
        if name not in there:
            new[name] = content
        elif _is_same(content, there[name]):
            kept.append(name)
        elif Path(name).name.lower() in READERS and _says_more(name, content, there[name]):
            new[name] = content
        else:
            changed.append(name)
    if changed:
        raise PictureError(
            f"{destination} has files of these names with other content:\n"
            f"{named_list(changed, listing)}\n"
            "None of them is overwritten: give the new ones other names, or change those by hand."
        )
    others = (name for name in there if name not in files and name != README)
    return CopyPlan(new, tuple(kept), tuple(others))


def _is_same(content: Content, there: Path) -> bool:
    if isinstance(content, bytes):
        return there.read_bytes() == content
    return filecmp.cmp(content, there, shallow=False)


def _says_more(name: str, content: Content, there: Path) -> bool:
    def captions(rows: list[MetadataRow]) -> dict[str, str]:
        return {row.picture: row.caption for row in rows if row.caption}

    text = content.decode() if isinstance(content, bytes) else read_caption_file(content)
    try:
        before = captions(read_metadata(there))
    except CaptionError:
        return False
    return before.items() <= captions(metadata_rows(Path(name).name, text)).items()


def copy_in(plan: CopyPlan, destination: Path) -> None:
    """Copy the new files of ``plan`` to ``destination``, beside it first.

    A new destination then appears whole; in an existing one each file does.
    """
    if not plan.new:
        return
    with partial_folder(destination) as partial:
        for name, content in plan.new.items():
            target = partial / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                target.write_bytes(content)
            else:
                shutil.copyfile(content, target)
        if not destination.exists():
            put_in_place(partial, destination)
            return
        settle(partial)
        # Pictures before the metadata that speaks of them.
        for name in sorted(plan.new, key=lambda name: (Path(name).name.lower() in READERS, name)):
            target = destination / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (partial / name).replace(target)
