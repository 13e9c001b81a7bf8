"""Each stage makes the same of pictures in a folder and of the same pictures in shards."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nsync_pipeline.blind.questions import picture_digests
from nsync_pipeline.captions import stage as captions
from nsync_pipeline.captions.config import CaptionsSettings
from nsync_pipeline.contrast.config import NEGATIVE, POSITIVE
from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.graph.made import FileHashes, Made, describe, require_whole
from nsync_pipeline.negative_set import stage as negative_set
from nsync_pipeline.negative_set.config import NegativeSetSettings
from nsync_pipeline.params import Params
from nsync_pipeline.pictures import layout
from nsync_pipeline.pictures.manifest import (
    CAPTIONS,
    NEGATIVE_SET,
    SAMPLES,
    STYLE_SET,
    read_manifest,
)
from nsync_pipeline.pictures.pixels import load_pixels, open_picture
from nsync_pipeline.pictures.style_pictures import read_style_pictures
from nsync_pipeline.samples import stage as samples
from nsync_pipeline.samples.config import BaseSamplesSettings
from nsync_pipeline.stage import StageResult
from nsync_pipeline.style_set import stage as style_set
from nsync_pipeline.style_set.config import StyleSetSettings
from nsync_pipeline.training.batches import batch_maker
from nsync_pipeline.training.encoded_set import EncodedSet, Example, encode_examples
from nsync_pipeline.training.inputs import TrainingInputs, read_training_inputs
from nsync_pipeline.training.triplets import triplet_order
from nsync_pipeline.workspace import BASE, MANIFEST_FILE, Workspace
from tests.support.contexts import stage_context
from tests.support.drawing_workspace import STYLE, drawing_params, folder_bytes
from tests.support.picture_files import save

PICTURES = 9


def bring_in(workspace: Workspace, number: int) -> None:
    file = workspace.source(STYLE) / f"{number}.png"
    save(file, number)
    file.with_suffix(".txt").write_text(f"a boat, {number} birds|a lake")


def make(workspace: Workspace, params: Params) -> None:
    """All artefacts up to what the base draws."""
    style_set.run(stage_context(StyleSetSettings, workspace, params, STYLE))
    captions.run(stage_context(CaptionsSettings, workspace, params, STYLE))
    negative_set.run(stage_context(NegativeSetSettings, workspace, params, STYLE))
    samples.run_base(stage_context(BaseSamplesSettings, workspace, params, STYLE, BASE))


@pytest.fixture(scope="module")
def params(tiny_base: Path) -> Params:
    return drawing_params(tiny_base, captioning={"several": "|"}, style_set={"min_side": 16})


@pytest.fixture(scope="module")
def both(
    params: Params, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Workspace, Workspace]]:
    """A workspace in folders, and one in shards that three workers wrote."""
    root = tmp_path_factory.mktemp("workspaces")
    folders, shards = Workspace(root / "folders"), Workspace(root / "shards")
    for number in range(PICTURES):
        bring_in(folders, number)
    shutil.copytree(folders.root, shards.root)
    make(folders, params)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "FEW", 0)
        patch.setattr(layout, "usable_cores", lambda: 3)
        make(shards, params)
        yield folders, shards


def places(workspace: Workspace) -> dict[Path, Any]:
    return {
        workspace.style_set(STYLE): STYLE_SET,
        workspace.captions(STYLE): CAPTIONS,
        workspace.negative_set(STYLE): NEGATIVE_SET,
        workspace.samples(STYLE, BASE): SAMPLES,
    }


def test_rows_and_pictures_are_the_same_in_the_same_order(
    both: tuple[Workspace, Workspace],
) -> None:
    for (folder, schema), shards in zip(places(both[0]).items(), places(both[1]), strict=True):
        there = read_manifest(folder / MANIFEST_FILE, schema)
        here = read_manifest(shards / MANIFEST_FILE, schema)
        assert (shards / MANIFEST_FILE).is_dir()
        for row, other in zip(there, here, strict=True):
            if "file" in row:
                first, second = open_picture(folder / row["file"]), shards / other["file"]
                assert first.tobytes() == open_picture(second).tobytes()
                head, name = row.pop("file").split("/")
                assert other.pop("file") == f"{head}/{name[:2]}.zip/{name}"
            assert row == other


def inputs_of(workspace: Workspace, params: Params) -> TrainingInputs:
    return read_training_inputs(workspace, STYLE, "sks", params.variant("nsync"), "painting")


def encoded(workspace: Workspace, params: Params, base: Path) -> EncodedSet:
    family = load_family(BaseModelConfig(name=str(base), device="cpu"))
    inputs = inputs_of(workspace, params)
    return encode_examples(
        family, inputs.train, load_pixels, lambda *told: None, style_prompts=inputs.style_prompts
    )


def test_a_training_is_given_the_same_batches(
    both: tuple[Workspace, Workspace], params: Params, tiny_base: Path
) -> None:
    folders, shards = (inputs_of(workspace, params) for workspace in both)
    assert folders.data_sha256 == shards.data_sha256
    assert [_without_places(one) for one in folders.train] == [
        _without_places(one) for one in shards.train
    ]
    assert folders.train[0].wordings
    settings = params.variant("nsync")
    family = load_family(BaseModelConfig(name=str(tiny_base), device="cpu"))
    drawn = []
    for workspace in both:
        examples = encoded(workspace, params, tiny_base)
        maker = batch_maker(examples, family, settings, 0, live_prompts=True)
        triplets = triplet_order(examples, settings, 0).triplets(1)
        drawn.append([maker.batch(branch, 1, triplets)[0] for branch in (POSITIVE, NEGATIVE)])
    for one, other in zip(*drawn, strict=True):
        assert torch.equal(one.noisy_latents, other.noisy_latents)
        assert one.prompts == other.prompts


def _without_places(example: Example) -> Example:
    nowhere = [replace(one, path=Path()) for one in (example.picture, *example.negatives)]
    return replace(example, picture=nowhere[0], negatives=tuple(nowhere[1:]))


def test_who_looks_at_them_sees_the_same(both: tuple[Workspace, Workspace]) -> None:
    seen = [read_style_pictures(workspace, STYLE, ()) for workspace in both]
    first, second = ([*picture_digests(pictures).values()] for pictures in seen)
    assert first == second
    assert [p.id for p in seen[0].test] == [p.id for p in seen[1].test]


def test_a_spoiled_or_lost_shard_is_named_before_a_stage_reads_it(
    both: tuple[Workspace, Workspace], tmp_path: Path
) -> None:
    folder = shutil.copytree(both[1].style_set(STYLE), tmp_path / "set")
    plan = Made("style_set", 1, STYLE, None, None, {}, {})
    made = describe(folder, plan, StageResult({}))
    require_whole(folder, made, FileHashes(tmp_path / "hashes"))
    for shard in (next(folder.glob("images/*.zip")), next(folder.glob("manifest.parquet/*"))):
        whole = shard.read_bytes()
        for left in (whole[:-1], None):
            if left is None:
                shard.unlink()
            else:
                shard.write_bytes(left)
            with pytest.raises(MissingArtifactError, match=re.escape(str(shard))):
                require_whole(folder, made, FileHashes(tmp_path / "hashes"))
        shard.write_bytes(whole)
    require_whole(folder, made, FileHashes(tmp_path / "hashes"))


def test_one_picture_more_rewrites_its_shards_alone(
    both: tuple[Workspace, Workspace], params: Params
) -> None:
    workspace = both[1]
    before = {folder: folder_bytes(folder) for folder in places(workspace)}
    old = {row["id"] for row in _style_rows(workspace)}
    bring_in(workspace, PICTURES)
    make(workspace, params)
    (new,) = (row for row in _style_rows(workspace) if row["id"] not in old)
    mine = {f"images/{new['id'][:2]}.zip", f"manifest.parquet/{new['id'][:2]}.parquet"}
    trained_on = new["split"] == "train"
    for folder, was in before.items():
        now = folder_bytes(folder)
        changed = {name for name, content in now.items() if was.get(name) != content}
        is_concerned = folder.name in ("style_set", "captions") or (
            folder.name == ("negative_set" if trained_on else BASE)
        )
        expected = mine
        if folder.name == "captions":
            expected = {
                f"{name}/{new['id'][:2]}.parquet" for name in (MANIFEST_FILE, "more.parquet")
            }
        assert changed == (expected if is_concerned else set())


def _style_rows(workspace: Workspace) -> list[dict[str, Any]]:
    return read_manifest(workspace.style_set(STYLE) / MANIFEST_FILE, STYLE_SET)
