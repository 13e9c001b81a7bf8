"""Several captions a picture, and tags shuffled and left out: from named streams, bounded."""

from collections import Counter
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsync_pipeline.errors import CaptionError
from nsync_pipeline.pictures.manifest import (
    CAPTIONS,
    MORE_CAPTIONS,
    read_manifest,
    write_manifest,
)
from nsync_pipeline.seeding import numpy_stream
from nsync_pipeline.training.config import TagsConfig, TrainingSettings
from nsync_pipeline.training.inputs import TrainingInputs, read_training_inputs
from nsync_pipeline.training.stage import run
from nsync_pipeline.training.triplets import TripletOrder
from nsync_pipeline.training.wordings import reworded, tags_of, wordings_of
from nsync_pipeline.workspace import MANIFEST_FILE, MORE_CAPTIONS_FILE, Workspace
from tests.support.contexts import stage_context
from tests.support.drawing_workspace import folder_bytes
from tests.support.tiny_style import STYLE, tiny_family, tiny_params, write_tiny_style

TAGS = st.lists(st.text("abc ", min_size=1, max_size=6).map(str.strip).filter(bool), max_size=8)


@settings(max_examples=60, deadline=None)
@given(TAGS, st.integers(0, 4), st.integers(0, 4), st.floats(0, 0.95), st.booleans())
def test_what_stays_stays_and_nothing_is_added(
    tags: list[str], first: int, last: int, dropout: float, shuffle: bool
) -> None:
    config = TagsConfig(shuffle=shuffle, dropout=dropout, keep_first=first, keep_last=last)
    caption = ", ".join(tags)
    found = tags_of(reworded(caption, config, numpy_stream(0, "x")), ",")
    before = tags_of(caption, ",")
    assert not Counter(found) - Counter(before)
    assert found
    assert found[: min(first, len(before))] == before[:first] or not first
    kept_last = before[max(len(before) - last, first) :]
    assert found[len(found) - len(kept_last) :] == kept_last or not kept_last
    if not dropout:
        assert Counter(found) == Counter(before)
    if not shuffle:
        in_order = iter(before)
        assert all(tag in in_order for tag in found)


def test_every_order_and_every_share_comes_up() -> None:
    config = TagsConfig(shuffle=True, keep_first=1, wordings=64)
    orders = Counter(wordings_of(["a, b, c, d"], config, 0, "p"))
    assert set(orders) == {f"a, {x}" for x in ("b, c, d", "b, d, c", "c, b, d", "c, d, b",
                                               "d, b, c", "d, c, b")}  # fmt: skip
    kept = wordings_of([", ".join("abcdefghij")], TagsConfig(dropout=0.3, wordings=64), 0, "p")
    share = sum(len(tags_of(one, ",")) for one in kept) / 640
    assert abs(share - 0.7) < 4 * (0.3 * 0.7 / 640) ** 0.5


def test_wordings_depend_on_the_picture_and_on_nothing_else() -> None:
    config = TagsConfig(shuffle=True, wordings=4)
    one = wordings_of(["a, b, c, d, e"], config, 0, "p")
    assert wordings_of(["a, b, c, d, e", "f, g"], config, 0, "p")[:4] == one
    assert wordings_of(["a, b, c, d, e"], config, 0, "q") != one
    assert wordings_of(["a, b", "a boat"], TagsConfig(), 0, "p") == ("a, b", "a boat")


def test_which_wording_is_drawn_is_a_function_of_the_step() -> None:
    def order(wordings: int) -> list[int]:
        drawn = TripletOrder(
            seed=0, ids="ab", shapes=[(4, 2, 2)] * 2, negative_counts=[1, 1], samples=4,
            wordings=wordings,
        )  # fmt: skip
        return [t.wording for step in range(50) for t in drawn.triplets(step)]

    assert set(order(1)) == {0}
    assert order(3) == order(8)
    shares = Counter(one % 4 for one in order(4))
    assert all(20 < count < 80 for count in shares.values())


TRAINING: dict[str, Any] = {
    "steps": 4, "batch_size": 2, "checkpoint_every": 2, "lora": {"rank": 2, "alpha": 4.0},
    "tags": {"shuffle": True, "dropout": 0.3, "keep_first": 1, "wordings": 3},
}  # fmt: skip


@pytest.fixture
def workspace(tmp_path: Path, tiny_base: Path) -> Workspace:
    """Pictures captioned by tags; the first has a second caption."""
    workspace = Workspace(tmp_path / "workspace")
    write_tiny_style(workspace, tiny_family(tiny_base).revision, train=2, test=1)
    folder = workspace.captions(STYLE)
    rows = read_manifest(folder / MANIFEST_FILE, CAPTIONS)
    tagged = [row | {"caption": "house, red, tree, green"} for row in rows]
    write_manifest(folder / MANIFEST_FILE, tagged, CAPTIONS)
    more = {"id": f"{rows[0]['id']}_0001", "picture": rows[0]["id"], "caption": "boat, blue, snow"}
    write_manifest(folder / MORE_CAPTIONS_FILE, [more], MORE_CAPTIONS)
    return workspace


def inputs_of(workspace: Workspace, base: Path, rule: str, **training: Any) -> TrainingInputs:
    params = tiny_params(base, TRAINING | training, rule)
    variant = params.variant("nsync")
    return read_training_inputs(workspace, STYLE, "sks", variant, "painting")


def test_a_triplets_negatives_have_its_wording(workspace: Workspace, tiny_base: Path) -> None:
    inputs = inputs_of(workspace, tiny_base, "prior_preservation")
    first, second = inputs.train
    assert (len(first.wordings), len(second.wordings)) == (6, 3)  # three of each caption
    style, generic = " in the style of sks", " in the style of painting"
    for example in inputs.train:
        assert [p.removesuffix(style) for p in example.wordings] == [
            p.removesuffix(generic) for p in example.negative_wordings
        ]
        assert example.prompt == f"house, red, tree, green{style}"
    assert all(one.startswith("boat, ") for one in first.wordings[3:])
    plain = inputs_of(workspace, tiny_base, "none", tags={})
    assert [one.wordings for one in plain.train] == [
        tuple(c + style for c in ("house, red, tree, green", "boat, blue, snow")), ()
    ]  # fmt: skip
    (workspace.captions(STYLE) / MORE_CAPTIONS_FILE).unlink()
    alone = inputs_of(workspace, tiny_base, "none", tags={})
    assert alone.data_sha256 != plain.data_sha256
    assert [one.wordings for one in alone.train] == [(), ()]


def test_captions_without_the_separator_are_refused(workspace: Workspace, tiny_base: Path) -> None:
    with pytest.raises(CaptionError, match=r"between ';', and no caption of ink has one"):
        inputs_of(workspace, tiny_base, "none", tags={"shuffle": True, "separator": ";"})


def test_a_training_by_wordings_goes_on_to_the_same_bytes(
    workspace: Workspace, tiny_base: Path
) -> None:
    def train(root: Workspace, **changes: Any) -> dict[str, bytes]:
        params = tiny_params(tiny_base, TRAINING, "orthogonal")
        run(stage_context(TrainingSettings, root, params, STYLE, "nsync", **changes))
        return folder_bytes(root.model(STYLE, "nsync", 0))

    def stop(what: str, done: int, total: int) -> None:
        if (what, done) == ("training", 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(workspace, progress=stop)
    gone_on = train(workspace)
    rmtree(workspace.scratch())
    assert train(workspace) == gone_on
