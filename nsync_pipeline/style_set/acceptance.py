"""Whether what was taken in is a set to train on, and an account of what was left out."""

from nsync_pipeline.errors import PictureError, bullet_list, short_list
from nsync_pipeline.style_set.config import StyleSetConfig
from nsync_pipeline.style_set.ingestion import Ingestion


def refuse_bad_files(ingestion: Ingestion, config: StyleSetConfig, source: str) -> None:
    """Stop where files cannot be used and ``on_bad_picture`` is ``error``.

    Raises:
        PictureError: all such files are in the one message.
    """
    if ingestion.problems and config.on_bad_picture == "error":
        raise PictureError(
            f"{source}: {len(ingestion.problems)} of the files cannot be used:\n"
            f"{bullet_list(ingestion.problems)}\n"
            "Mend or take them out; or set style_set.on_bad_picture to `skip` to leave them out."
        )


def refuse_too_few(ingestion: Ingestion, source: str) -> None:
    """Stop where no split into train and test can be made.

    Raises:
        PictureError: there are not two pictures that differ.
    """
    count = len({picture.group for picture in ingestion.pictures})
    if count > 1:
        return
    lists = left_out(ingestion)
    besides = ", ".join(f"{len(files)} {name.replace('_', ' ')}" for name, files in lists.items())
    alike = " that differ from one another" if len(ingestion.pictures) > 1 else ""
    raise PictureError(
        f"{source}: a style set needs at least two pictures{alike}, one to train on and one to "
        f"test with, and there {'is only one' if count else 'are none'}"
        f"{f' (left out: {besides})' if besides else ''}. Add pictures."
    )


def left_out(ingestion: Ingestion) -> dict[str, tuple[object, ...]]:
    """What is not in the set, by why; only where there is any."""
    lists: dict[str, tuple[object, ...]] = {
        "bad_files": ingestion.problems,
        "duplicates": ingestion.duplicates,
        "near_duplicates": ingestion.near_duplicates,
        "without_caption": ingestion.uncaptioned,
        "ignored_files": ingestion.ignored,
    }
    return {name: files for name, files in lists.items() if files}


def figures(ingestion: Ingestion) -> dict[str, int | float | str]:
    """What is in the set and what is not, in numbers, and the first names of what is not."""
    sides = [side for picture in ingestion.pictures for side in (picture.width, picture.height)]
    said: dict[str, int | float | str] = {
        "pictures": len(ingestion.pictures),
        "captioned": sum(picture.caption is not None for picture in ingestion.pictures),
        "shortest_side": min(sides, default=0),
        "longest_side": max(sides, default=0),
    }
    for name, files in left_out(ingestion).items():
        said[name] = len(files)
        said[f"{name}_are"] = short_list(files, most=20)
    return said
