"""The captions stage, with a real tokenizer."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nsync_pipeline.captions import stage as captions
from nsync_pipeline.captions.config import CaptionsSettings
from nsync_pipeline.errors import CaptionError, MissingArtifactError
from nsync_pipeline.params import parse_params
from nsync_pipeline.pictures.manifest import (
    CAPTIONS,
    MORE_CAPTIONS,
    STYLE_SET,
    read_manifest,
    write_manifest,
)
from nsync_pipeline.stage import StageContext, StageResult
from nsync_pipeline.workspace import MANIFEST_FILE, MORE_CAPTIONS_FILE, Workspace
from tests.support.contexts import stage_context
from tests.support.tiny_models import save_tiny_stable_diffusion_xl

LONG = "a red house beside a green tree on grass under a blue sky and white snow on water"
"""18 words of one token each; with " in the style of sks" 23, with "illustration" too; 30 fit."""


def context(
    root: Path, base: Path, style: dict[str, Any], **settings: Any
) -> StageContext[CaptionsSettings]:
    params = parse_params(
        {
            "base_model": {"name": str(base)},
            "styles": {"hills": {"source": "folder", **style}},
            "variants": {"lora": {"update_rule": "none"}},
            "captioning": {"model": None, **settings},
        }
    )
    return stage_context(CaptionsSettings, Workspace(root), params, "hills")


def style_set(root: Path, texts: list[str | None]) -> None:
    """A style set of pictures 0.png, 1.png and so on."""
    images = Workspace(root).style_set("hills") / "images"
    images.mkdir(parents=True, exist_ok=True)
    for number in range(len(texts)):
        Image.new("RGB", (64, 48), (9 * number, 90, 90)).save(images / f"{number:016x}.png")
    rows = [
        {
            "id": f"{number:016x}", "file": f"images/{number:016x}.png", "sha256": "0" * 64,
            "width": 64, "height": 64, "caption": text,
            "caption_source": None if text is None else "txt",
            "split": "test" if number % 2 else "train", "origin": f"{number}.png",
        }
        for number, text in enumerate(texts)
    ]  # fmt: skip
    write_manifest(Workspace(root).style_set("hills") / MANIFEST_FILE, rows, STYLE_SET)


def run(
    root: Path, base: Path, texts: list[str | None], style: Any = None, **settings: Any
) -> tuple[StageResult, list[dict[str, Any]]]:
    style_set(root, texts)
    result = captions.run(context(root, base, style or {}, **settings))
    manifest = Workspace(root).captions("hills") / MANIFEST_FILE
    return result, read_manifest(manifest, CAPTIONS)


def test_style_words_go_and_the_raw_caption_stays(tmp_path: Path, tiny_base: Path) -> None:
    result, (first, second) = run(
        tmp_path,
        tiny_base,
        ["an oil painting of a red boat, Hokusai", "a tree"],
        {"style_words": ["hokusai"]},
    )
    assert first == {
        "id": f"{0:016x}",
        "caption": "a red boat",
        "raw_caption": "an oil painting of a red boat, Hokusai",
        "source": "txt",
        "removed_words": ["oil painting", "Hokusai"],
        "lost": None,
    }
    assert (second["caption"], second["removed_words"]) == ("a tree", [])
    assert result.figures["with_style_words_removed"] == 1
    assert result.figures["prompt_tokens_at_most"] == 30


def test_missing_and_empty_captions_are_named_together(tmp_path: Path, tiny_base: Path) -> None:
    with pytest.raises(CaptionError) as caught:
        run(tmp_path, tiny_base, ["a tree", None, "", "a boat"])
    lines = str(caught.value).splitlines()
    assert lines[0] == "style 'hills': 2 of 4 pictures have no caption:"
    assert lines[1:3] == ["  - 1.png has no caption", "  - 2.png has no caption"]
    assert "sources/hills" in lines[3]
    assert "style_set.uncaptioned" in lines[3]


def test_what_the_style_is_called_by_is_taken_out_and_said(tmp_path: Path, tiny_base: Path) -> None:
    """Or the negatives would be drawn by it, too."""
    texts: list[str | None] = ["sks style, a tree", "a boat painted by Katsushika Hokusai", "a cow"]
    result, rows = run(tmp_path, tiny_base, texts)
    assert [row["caption"] for row in rows] == ["a tree", "a boat", "a cow"]
    assert result.figures["with_the_style_s_name_removed"] == 2
    assert result.figures["with_the_style_s_name_removed_are"] == (
        '0.png ("sks style"), 1.png ("painted by Katsushika Hokusai")'
    )


def test_the_name_that_the_base_may_know_goes_too(tmp_path: Path, tiny_base: Path) -> None:
    _, rows = run(
        tmp_path, tiny_base, ["Hokusai waves by a hill", "a tree"], {"known_as": "Hokusai"}
    )
    assert [row["caption"] for row in rows] == ["waves by a hill", "a tree"]


def test_a_caption_of_style_words_alone_is_refused(tmp_path: Path, tiny_base: Path) -> None:
    with pytest.raises(CaptionError, match=r'nothing is left of 1 captions .*\n.*0\.png: "a paint'):
        run(tmp_path, tiny_base, ["a painting !*", "a boat"])


def test_a_caption_of_signs_alone_is_none(tmp_path: Path, tiny_base: Path) -> None:
    """As in a style set that was made when it counted as one."""
    with pytest.raises(CaptionError, match=r"1 of 2 pictures have no caption:\n.*0\.png"):
        run(tmp_path, tiny_base, ["***", "a boat"])


def test_a_long_caption_is_cut_so_that_the_style_still_fits(
    tmp_path: Path, tiny_base: Path
) -> None:
    text = LONG.replace("snow on water", "snow on water in the sun and the moon and a fish")
    # 27 words and five for " in the style of sks" are 32; two too many: "and", "a fish" go.
    result, (first, _) = run(tmp_path, tiny_base, [text, "a boat"], {"generic_style": "painting"})
    assert text.removeprefix(first["caption"]).split() == ["and", "a", "fish"]
    assert first["raw_caption"] == text
    assert first["lost"] == "and a fish"
    assert result.figures["cut"] == 1
    assert result.figures["cut_are"] == '0.png (lost: "and a fish")'


def test_the_preview_shows_what_was_lost_first(tmp_path: Path, tiny_base: Path) -> None:
    """The thirteenth of twelve that fit is shown because words of it were lost."""
    texts: list[str | None] = [f"a boat {number}" for number in range(12)]
    result, _ = run(tmp_path, tiny_base, [*texts, f"{LONG} in the sun and the moon and a fish"])
    (preview,) = result.previews
    assert preview.title == "hills: captions"
    shown = np.asarray(Image.open(io.BytesIO(preview.jpeg)).convert("RGB")).astype(int)
    red = shown[..., 0] - shown[..., 1] > 50
    first_rows = red[: len(red) // 4]
    assert first_rows.sum() > 50
    assert red[len(red) // 4 :].sum() == 0


def test_the_longer_of_the_two_prompts_counts(tmp_path: Path, tiny_base: Path) -> None:
    """A generic style of one token is no longer than "sks"; one spelled out in bytes is."""
    _, (short, _) = run(tmp_path, tiny_base, [LONG, "a boat"])
    assert short["caption"] == LONG
    _, (cut, _) = run(tmp_path, tiny_base, [LONG, "a boat"], {"generic_style": "quattrocento"})
    assert LONG.startswith(cut["caption"])
    assert len(cut["caption"]) < len(LONG)


def test_with_several_text_encoders_the_shortest_window_counts(tmp_path: Path) -> None:
    """LONG has 18 words; beside the five for the style, 18 tokens hold its first 13."""
    base = save_tiny_stable_diffusion_xl(tmp_path / "base")
    settings = base / "text_encoder_2" / "config.json"
    short = json.loads(settings.read_text()) | {"max_position_embeddings": 20}
    settings.write_text(json.dumps(short))
    result, (first, _) = run(tmp_path, base, [LONG, "a boat"])
    assert result.figures["prompt_tokens_at_most"] == 18
    assert f"{first['caption']} {first['lost']}" == LONG
    assert first["caption"] == "a red house beside a green tree on grass under a blue sky"


def test_a_long_caption_may_be_an_error(tmp_path: Path, tiny_base: Path) -> None:
    text = f"{LONG} in the sun and the moon and a fish"
    with pytest.raises(CaptionError) as caught:
        run(tmp_path, tiny_base, [text, "a boat"], too_long="error")
    lines = str(caught.value).splitlines()
    assert "the 30 tokens" in lines[0]
    assert lines[1] == '  - 0.png: 32 tokens; "and a fish" would be lost'
    assert "captioning.too_long" in lines[2]


def test_a_caption_of_which_nothing_fits_is_refused_even_where_cutting_is_allowed(
    tmp_path: Path, tiny_base: Path
) -> None:
    with pytest.raises(CaptionError, match="too long"):
        run(tmp_path, tiny_base, ["x" * 60, "a boat"])


def test_without_a_style_set(tmp_path: Path, tiny_base: Path) -> None:
    with pytest.raises(MissingArtifactError, match="style_set"):
        captions.run(context(tmp_path, tiny_base, {}))


def test_what_a_person_wrote_goes_before_all_else(tmp_path: Path, tiny_base: Path) -> None:
    """Of the third picture there is no other caption; the last line's picture is not in the set."""
    numbers = (0, 2, 77)
    lines = (
        {"id": f"{n:016x}", "file": f"{n}.png", "caption": f"a drawing of a fish {n}"}
        for n in numbers
    )
    path = Workspace(tmp_path).captions_by_hand("hills")
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result, (first, second, third) = run(tmp_path, tiny_base, ["a tree", "a boat", None])
    assert (first["caption"], first["raw_caption"]) == ("a fish 0", "a drawing of a fish 0")
    assert [row["source"] for row in (first, second, third)] == ["hand", "txt", "hand"]
    assert third["caption"] == "a fish 2"
    assert result.figures["by_hand"] == 2


def test_a_picture_may_have_several_captions(tmp_path: Path, tiny_base: Path) -> None:
    """The first is its caption; the others lie beside, without words of style, too."""
    texts: list[str | None] = ["a boat | a red boat, watercolor", "a painting | a tree", "a house"]
    result, rows = run(tmp_path, tiny_base, texts, several="|")
    assert [row["caption"] for row in rows] == ["a boat", "a tree", "a house"]
    assert rows[0]["raw_caption"] == texts[0]
    folder = Workspace(tmp_path).captions("hills")
    (more,) = read_manifest(folder / MORE_CAPTIONS_FILE, MORE_CAPTIONS)
    assert more == {"id": f"{0:016x}_0001", "picture": f"{0:016x}", "caption": "a red boat"}
    assert result.figures["further_captions"] == 1
    _, rows = run(tmp_path, tiny_base, texts)
    assert rows[0]["caption"] == "a boat | a red boat"
    assert not (folder / MORE_CAPTIONS_FILE).exists()


def test_what_stands_before_and_behind_every_caption_stays_and_counts(
    tmp_path: Path, tiny_base: Path
) -> None:
    """Words of style in it stay; a caption is cut so that it fits together with it."""
    around = {"prefix": "a painting", "suffix": "on grass under a blue sky"}
    _, rows = run(tmp_path, tiny_base, ["a red boat", LONG], **around)
    assert rows[0]["caption"] == "a painting, a red boat, on grass under a blue sky"
    assert rows[1]["lost"]
    assert rows[1]["caption"].startswith("a painting, a red house beside")
    assert rows[1]["caption"].endswith(", on grass under a blue sky")
