"""Adding a style to the text of ``params.yaml``: every other byte of it stays as it is."""

import difflib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap

from nsync_pipeline.errors import CaptionError, NotTextError, ParamsError, PictureError
from nsync_pipeline.files import disk_full_explained, named_in_line, write_whole
from nsync_pipeline.graph.dvc import DRAWN_TEXT
from nsync_pipeline.graph.locks import sole_writer
from nsync_pipeline.params import Params, parse_params, read_params
from nsync_pipeline.settings_file import NAME, parse_settings, round_trip_yaml, with_values
from nsync_pipeline.stage import Progress
from nsync_pipeline.style_set.config import StyleSetConfig, StyleSource
from nsync_pipeline.style_set.ingestion import (
    Asked,
    Ingestion,
    figures,
    ingest,
    refuse_bad_files,
    refuse_too_few,
)
from nsync_pipeline.style_set.source_copy import (
    README,
    CopyPlan,
    copy_in,
    files_of,
    plan_copy,
    refuse_unversionable,
)
from nsync_pipeline.style_set.source_folder import SourceFolder, read_source
from nsync_pipeline.style_set.sources import folder_offer, sketchbook_offer
from nsync_pipeline.text import printable, require_text
from nsync_pipeline.workspace import SKETCHBOOK, SKETCHBOOK_PREFIX, Workspace


def with_style(text: str, name: str, entry: Mapping[str, Any]) -> str:
    """``text`` with ``entry`` as the last style of its section ``styles``, indented as the others.

    All other lines stay. (Writing the whole file anew would move the comments between sections.)

    Raises:
        ParamsError: the styles are not written as a block, a style a line; the message has the
            lines to put in by hand.
    """
    loaded = round_trip_yaml().load(text)
    styles = loaded["styles"]
    first = next(iter(styles))
    line, column = styles.lc.key(first)
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines(keepends=True)
    style, indent = styles[first], 2
    if isinstance(style, CommentedMap) and style:
        inner = style.lc.key(next(iter(style)))[1]
        indent = inner - column if inner > column else indent
    written = _written(name, entry, column, indent)
    at = _end_of_block(lines, line, column)
    if at == len(lines) and lines and not lines[-1].endswith(("\n", "\r")):
        lines[-1] += newline
    lines[at:at] = [f"{row}{newline}" for row in written]
    changed = "".join(lines)
    if not _is(changed, loaded, name, entry):
        raise ParamsError(
            "params.yaml: the styles are written in a way that no style can be added to without "
            "rewriting them. Put these lines under `styles:` yourself:\n" + "\n".join(written)
        )
    return changed


def _written(name: str, entry: Mapping[str, Any], column: int, indent: int) -> list[str]:
    yaml = round_trip_yaml()
    yaml.indent(mapping=indent, sequence=indent + 2, offset=indent)
    yaml.width = 4096
    out = io.StringIO()
    yaml.dump({name: dict(entry)}, out)
    return [" " * column + row for row in out.getvalue().splitlines()]


def _end_of_block(lines: list[str], first: int, column: int) -> int:
    """The line behind the last one of the block that starts at ``first``, comments not counted."""
    end = first + 1
    for number in range(first, len(lines)):
        text = lines[number].strip()
        if not text or text.startswith("#"):
            continue
        if len(lines[number]) - len(lines[number].lstrip(" ")) < column:
            break
        end = number + 1
    return end


def _is(changed: str, before: Any, name: str, entry: Mapping[str, Any]) -> bool:
    try:
        after = parse_settings(changed, "params.yaml")
    except ParamsError:
        return False
    out = io.StringIO()
    round_trip_yaml().dump(before, out)
    plain = parse_settings(out.getvalue(), "params.yaml")
    plain["styles"][name] = {k: list(v) if isinstance(v, tuple) else v for k, v in entry.items()}
    return bool(after == plain) and list(after["styles"]) == list(plain["styles"])


FOLDER = "folder"


@dataclass(frozen=True)
class NewStyle:
    """What is asked for."""

    name: str
    source: str  # a folder, or sketchbook:<held-out style>
    placeholder: str = "sks"
    generic_style: str = "painting"
    style_words: tuple[str, ...] = ()
    known_as: str | None = None
    pictures: int | None = None  # how many to draw; with a sketchbook source only
    captioned_only: bool = False  # leave pictures without a caption where they are
    update: bool = False  # add new pictures to a style that is there already
    exclude_bad: bool = False  # files that cannot be used come along, and are left out by name
    caption_later: bool = False  # pictures without a caption come in where no model describes them


@dataclass(frozen=True)
class AddedStyle:
    """What was done."""

    folder: Path  # sources/<style>
    is_folder: bool  # it holds pictures, for `dvc add`
    copied: int  # files, captions among them
    figures: Mapping[str, int | float | str]  # of the pictures brought, as the style set has them
    described_by: str | None = None  # the model that describes pictures without a caption, if any
    on_embedded_base: bool = False  # real pictures, on a base that has never seen one


def add_style(workspace: Workspace, asked: NewStyle, progress: Progress) -> AddedStyle:
    """Bring a style in.

    Raises:
        ParamsError: the name cannot be a style's, is taken, or a setting is not allowed.
        PictureError, CaptionError: the pictures or captions cannot be used (as ``style_set``), or
            would overwrite others.
        WorkspaceBusyError: another process is adding a style.
        UserError: the disk is full.
    """
    _check_name(asked.name)
    with (
        sole_writer(workspace.lock("params"), workspace.params_file),
        disk_full_explained(workspace.root),
    ):
        params = read_params(workspace.params_file)
        if asked.source.startswith(SKETCHBOOK_PREFIX):
            return _add_drawn(workspace, params, asked)
        return _add_folder(workspace, params, asked, progress)


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        valid = "".join(c if NAME.fullmatch(c) else "_" for c in name.lower()).strip("_")[:48]
        hint = f"; for example {valid}" if NAME.fullmatch(valid) else ""
        raise ParamsError(
            f"{name!r} cannot be the name of a style: lower-case letters, digits and _ only, at "
            f"most 48, not _ first{hint}"
        )


def _add_drawn(workspace: Workspace, params: Params, asked: NewStyle) -> AddedStyle:
    if asked.name in params.styles:
        raise ParamsError(f"style {asked.name!r} is in params.yaml already: choose another name")
    if asked.pictures is None:
        raise ParamsError(f"say how many pictures to draw of {asked.source}: --pictures N")
    if asked.captioned_only or asked.update:
        raise ParamsError(f"{asked.source} draws its pictures with captions: there is no folder")
    offer = sketchbook_offer(StyleSource(source=asked.source, pictures=asked.pictures), params.seed)
    text = _params_text(workspace, asked, {"source": asked.source, "pictures": asked.pictures})
    folder = workspace.source(asked.name)
    if folder.is_dir() and any(path.name != README for path in folder.iterdir()):
        raise PictureError(f"{folder} holds files already: choose another name, or move them away")
    readme = DRAWN_TEXT.format(style=asked.name, source=asked.source)
    write_whole(folder / README, readme)
    write_whole(workspace.params_file, text)
    return AddedStyle(folder, is_folder=False, copied=0, figures={"pictures": offer.count})


def _add_folder(
    workspace: Workspace, params: Params, asked: NewStyle, progress: Progress
) -> AddedStyle:
    if asked.pictures is not None:
        raise ParamsError("--pictures goes only with a source sketchbook:<held-out style>")
    source = Path(asked.source).expanduser()
    folder = workspace.source(asked.name)
    found = _read(asked, source)
    style = params.styles.get(asked.name)
    if style is not None and style.source != FOLDER:
        raise ParamsError(
            f"style {asked.name!r} is in params.yaml already, and is drawn ({style.source}): "
            "choose another name"
        )
    config = params.style_set
    if asked.captioned_only:
        config = config.model_copy(update={"uncaptioned": "skip"})
    shown = Asked(workspace, asked.name, asked.source)
    pictures = {picture.name for picture in found.pictures}
    there = pictures | {problem.name for problem in found.problems}
    known = tuple(name for name in (style.excluded if style else ()) if name in there)
    offer = folder_offer(found, config, shown, known)
    # Where the stage looks for it: what is brought in is not decoded again.
    seen = workspace.scratch("style_set", asked.name) / "seen.jsonl"
    ingestion = ingest(offer, config, lambda picture_id, candidate: None, progress, seen)
    if not asked.exclude_bad:
        refuse_bad_files(ingestion, config, shown)
    if not asked.update:
        refuse_too_few(ingestion, shown)
    described_by = None
    if params.captioning.asked is not None or not asked.caption_later:
        described_by = _described_by(ingestion, config, params, shown)
    refuse_unversionable(folder)

    left = {problem.name for problem in ingestion.problems}
    bad = sorted(left & pictures) if asked.exclude_bad else []
    accepted = (pictures - left - set(ingestion.uncaptioned)) | set(bad)
    text = None
    if style is None:
        entry = {"source": FOLDER} | ({"excluded": bad} if bad else {})
        text = _params_text(workspace, asked, entry)
    elif bad:
        before = workspace.params_file.read_bytes().decode("utf-8")
        text = with_values(before, {f"styles.{asked.name}.excluded": [*style.excluded, *bad]})
    plan = CopyPlan({}, (), ())
    if source.resolve() != folder.resolve():  # else the pictures were put there by hand
        listing = workspace.listing(asked.name, "changed")
        plan = plan_copy(files_of(found, source, accepted), folder, listing)
        _refuse_mixing(params, asked, folder, plan)
        copy_in(plan, folder)
    if text is not None:
        write_whole(workspace.params_file, text)
    return AddedStyle(
        folder, True, len(plan.new), figures(ingestion, shown), described_by,
        on_embedded_base=params.base_model.name == SKETCHBOOK,
    )  # fmt: skip


def _read(asked: NewStyle, source: Path) -> SourceFolder:
    if not source.is_dir():
        near = difflib.get_close_matches(
            source.name, [p.name for p in source.absolute().parent.glob("*/")], n=1
        )
        hint = f" (is {source.with_name(near[0])} meant?)" if near else ""
        raise PictureError(
            f"{asked.source} is no folder{hint}; a style comes from a folder of pictures, or from "
            f"{SKETCHBOOK_PREFIX}<held-out style>"
        )
    return read_source(source)


def _described_by(
    ingestion: Ingestion, config: StyleSetConfig, params: Params, asked: Asked
) -> str | None:
    """The model that is to describe pictures without a caption; None where all have one.

    Raises:
        CaptionError: there are such pictures, and no model.
    """
    missing = [picture.origin for picture in ingestion.pictures if picture.caption is None]
    if not missing or config.uncaptioned == "skip":
        return None
    if params.captioning.asked is None:
        listing = asked.workspace.listing(asked.style, "without_caption")
        raise CaptionError(
            f"{asked.source}: {len(missing)} of {len(ingestion.pictures)} pictures have no caption "
            f"({named_in_line(missing, listing, most=5)}). Write what each shows into a text file "
            "of the same name (picture.jpg, picture.txt) or into metadata.jsonl; bring them in by "
            "`nsync studio` and write it there; set captioning.model to have a model describe "
            "them; or leave them out: --captioned-only"
        )
    return params.captioning.asked.name


def _refuse_mixing(params: Params, asked: NewStyle, folder: Path, plan: CopyPlan) -> None:
    """Stop where pictures would come among others, and that was not asked for."""
    known = asked.name in params.styles
    there = len(plan.kept) + len(plan.others)
    if asked.update:
        if not known and not there:
            raise ParamsError(f"there is no style {asked.name!r} to update: leave out --update")
        return
    tracked = folder.with_name(f"{folder.name}.dvc")
    if not there and tracked.is_file():
        raise PictureError(
            f"style {asked.name!r} has its pictures in DVC, and not here: fetch them by "
            f"`dvc pull {tracked.name}` in {tracked.parent}, then add with --update; or choose "
            "another name"
        )
    # All of these there and no others: the same call was cut off before params.yaml was written.
    cut_off = not known and not plan.new and not plan.others
    if there and not cut_off:
        raise PictureError(
            f"style {asked.name!r} is there already, with {there} files in {folder}: choose "
            "another name, or add new pictures to it with --update"
        )


def _params_text(workspace: Workspace, asked: NewStyle, source: Mapping[str, Any]) -> str:
    """The text of params.yaml with the style in it, checked against the schema."""
    names = {"placeholder": asked.placeholder, "generic_style": asked.generic_style}
    entry: dict[str, Any] = {**source, **names}
    if asked.known_as is not None:
        entry["known_as"] = asked.known_as
    if asked.style_words:
        entry["style_words"] = list(asked.style_words)
    for words in (*names.values(), asked.known_as or "", *asked.style_words):
        try:
            require_text(words)
        except NotTextError as error:
            raise ParamsError(f"{printable(words)} {error}") from error
    text = with_style(workspace.params_file.read_bytes().decode("utf-8"), asked.name, entry)
    parse_params(parse_settings(text, "params.yaml"))
    return text
