"""negative_set: paired, reproducible, picked up where it was killed."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nsync_pipeline.errors import BaseModelError, MissingArtifactError, ParamsError
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.family import Family
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.negative_set import stage as negative_set
from nsync_pipeline.negative_set.config import NegativeSetSettings
from nsync_pipeline.params import Params, parse_params
from nsync_pipeline.pictures.manifest import CAPTIONS, NEGATIVE_SET, read_manifest, write_manifest
from nsync_pipeline.seeding import stream_seed
from nsync_pipeline.stage import StageResult
from nsync_pipeline.workspace import MANIFEST_FILE, Workspace
from tests.support.contexts import stage_context
from tests.support.drawing_workspace import STYLE, drawing_params, folder_bytes, write_pictures

TRAIN = ("b1", "c2", "d3", "e4", "f5")


def run(
    root: Path, params: Params, train: tuple[str, ...] = TRAIN
) -> tuple[StageResult, list[int]]:
    """Run the stage on fresh manifests; its result, and how many pictures were there when."""
    workspace = Workspace(root)
    write_pictures(workspace, train, ("a9",))
    reports: list[int] = []

    def tell(what: str, done: int, total: int) -> None:
        reports.append(done)

    context = stage_context(NegativeSetSettings, workspace, params, STYLE, progress=tell)
    result = negative_set.run(context)
    return result, reports


def rows_of(root: Path) -> list[dict[str, object]]:
    return read_manifest(Workspace(root).negative_set(STYLE) / MANIFEST_FILE, NEGATIVE_SET)


def test_every_training_picture_is_paired_and_its_origin_told(
    tiny_base: Path, tmp_path: Path
) -> None:
    params = drawing_params(tiny_base, seed=3).model_copy()
    params = params.model_copy(
        update={"negative_set": params.negative_set.model_copy(update={"per_positive": 2})}
    )
    result, _ = run(tmp_path, params)
    rows = rows_of(tmp_path)
    assert [row["id"] for row in rows] == [f"{name}_{k}" for name in TRAIN for k in (0, 1)]
    folder = Workspace(tmp_path).negative_set(STYLE)
    captions = {
        row["id"]: row["caption"]
        for row in read_manifest(Workspace(tmp_path).captions(STYLE) / MANIFEST_FILE, CAPTIONS)
    }
    for row in rows:
        assert row["id"] == f"{row['positive_id']}_{row['k']}"
        assert row["file"] == f"images/{row['id']}.png"
        file = folder / str(row["file"])
        assert hashlib.sha256(file.read_bytes()).hexdigest() == row["sha256"]
        with Image.open(file) as image:
            assert image.size == (row["width"], row["height"]) == (32, 32)
        assert row["prompt"] == f"{captions[str(row['positive_id'])]} in the style of painting"
        assert row["seed"] == stream_seed(
            3, "negative", str(row["positive_id"]), int(str(row["k"]))
        )
        assert row["base_model"] == str(tiny_base)
        assert str(row["base_revision"]).startswith("sha256:")
        assert row["sampler"] == "DPMSolverMultistepScheduler"
        assert (row["steps"], row["guidance_scale"]) == (3, 4.0)
    assert sorted(file.name for file in folder.iterdir()) == ["images", MANIFEST_FILE]
    assert result.figures["pictures"] == 10
    assert result.figures["positives"] == 5
    (preview,) = result.previews
    assert preview.jpeg.startswith(b"\xff\xd8")
    assert len(preview.jpeg) < 100_000


def test_two_workspaces_give_the_same_bytes(tiny_base: Path, tmp_path: Path) -> None:
    params = drawing_params(tiny_base)
    first, _ = run(tmp_path / "one", params)
    second, _ = run(tmp_path / "two", params)
    one, two = (folder_bytes(Workspace(tmp_path / n).negative_set(STYLE)) for n in ("one", "two"))
    assert one == two
    assert len(one) == len(TRAIN) + 1
    assert first == second


def test_an_added_picture_changes_no_other_negative(tiny_base: Path, tmp_path: Path) -> None:
    """It sorts before all others, so that every batch would shift; only it is drawn."""
    params = drawing_params(tiny_base)
    run(tmp_path / "grown", params)
    before = folder_bytes(Workspace(tmp_path / "grown").negative_set(STYLE))
    _, reports = run(tmp_path / "grown", params, ("a0", *TRAIN))
    after = folder_bytes(Workspace(tmp_path / "grown").negative_set(STYLE))
    assert reports == [5, 6]
    assert set(after) - set(before) == {"images/a0_0.png"}
    assert all(after[name] == before[name] for name in before if name != MANIFEST_FILE)
    run(tmp_path / "fresh", params, ("a0", *TRAIN))
    assert folder_bytes(Workspace(tmp_path / "fresh").negative_set(STYLE)) == after


def test_changed_settings_do_not_take_old_pictures(tiny_base: Path, tmp_path: Path) -> None:
    run(tmp_path, drawing_params(tiny_base))
    old = folder_bytes(Workspace(tmp_path).negative_set(STYLE))
    _, reports = run(tmp_path, drawing_params(tiny_base, seed=1))
    new = folder_bytes(Workspace(tmp_path).negative_set(STYLE))
    assert reports[0] == 0
    assert all(new[name] != old[name] for name in old)


def drawn_so_far(scratch: Path) -> int:
    """The pictures in ``scratch``; its folders come and go, as another process writes there."""
    try:
        return len(list(scratch.glob("*/*.png")))
    except FileNotFoundError:
        return 0


def test_kill_9_and_the_same_command_again_gives_the_same_bytes(
    tiny_base: Path, tmp_path: Path
) -> None:
    sampler = {"steps": 60, "guidance_scale": 4.0, "batch_size": 2}
    params = drawing_params(tiny_base, negative_set={"sampler": sampler})
    train = tuple(f"{number:02d}" for number in range(16))
    write_pictures(Workspace(tmp_path / "killed"), train, ("a9",))
    command = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r});"
        "from pathlib import Path; from nsync_pipeline.workspace import Workspace;"
        "from nsync_pipeline.params import Params; from nsync_pipeline.negative_set import stage;"
        "from nsync_pipeline.negative_set.config import NegativeSetSettings;"
        "from support.contexts import stage_context;"
        "params = Params.model_validate_json(sys.argv[2]);"
        "workspace = Workspace(Path(sys.argv[1]));"
        f"stage.run(stage_context(NegativeSetSettings, workspace, params, {STYLE!r}))"
    )
    arguments = [str(tmp_path / "killed"), json.dumps(params.model_dump(mode="json"))]
    process = subprocess.Popen([sys.executable, "-c", command, *arguments])
    scratch = Workspace(tmp_path / "killed").scratch("negative_set", STYLE)
    deadline = time.monotonic() + 300
    while drawn_so_far(scratch) < 4:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not folder_bytes(Workspace(tmp_path / "killed").negative_set(STYLE))

    _, reports = run(tmp_path / "killed", params, train)
    _, unbroken = run(tmp_path / "unbroken", params, train)
    assert 2 <= reports[0] < 16
    assert unbroken == list(range(0, 17, 2))
    killed, whole = (
        folder_bytes(Workspace(tmp_path / name).negative_set(STYLE))
        for name in ("killed", "unbroken")
    )
    assert killed == whole


def test_a_missing_caption_is_named(tiny_base: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_pictures(workspace, TRAIN, ("a9",))
    manifest = workspace.captions(STYLE) / MANIFEST_FILE
    kept = [row for row in read_manifest(manifest, CAPTIONS) if row["id"] != "c2"]
    write_manifest(manifest, kept, CAPTIONS)
    with pytest.raises(MissingArtifactError, match=r"1 pictures have no caption yet.*c2\.jpg"):
        negative_set.run(
            stage_context(NegativeSetSettings, workspace, drawing_params(tiny_base), STYLE)
        )


def test_an_empty_training_split_is_named(tiny_base: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_pictures(workspace, (), ("a9",))
    with pytest.raises(MissingArtifactError, match="no train picture"):
        negative_set.run(
            stage_context(NegativeSetSettings, workspace, drawing_params(tiny_base), STYLE)
        )


def test_a_broken_picture_stops_the_stage(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(config: BaseModelConfig) -> Family:
        family = load_family(config)
        denoiser: Any = family.denoiser
        denoiser.conv_out.bias.data[0] = float("nan")
        return family

    monkeypatch.setattr(negative_set, "load_family", broken)
    with pytest.raises(BaseModelError, match="picture b1_0 came out not finite"):
        run(tmp_path, drawing_params(tiny_base, seed=9))
    assert not folder_bytes(Workspace(tmp_path).negative_set(STYLE))


def test_negatives_may_be_of_another_size_than_they_are_trained_at(
    tiny_base: Path, tmp_path: Path
) -> None:
    params = drawing_params(tiny_base, seed=3)
    changed = params.negative_set.model_copy(update={"resolution": 48})
    run(tmp_path, params.model_copy(update={"negative_set": changed}))
    rows = rows_of(tmp_path)
    assert {(row["width"], row["height"]) for row in rows} == {(48, 48)}
    content = params.model_dump(mode="json", exclude_defaults=True)
    content["negative_set"]["resolution"] = 48
    content["base_model"]["aspect_buckets"] = True
    with pytest.raises(ParamsError, match=r"negative_set\.resolution is for square pictures"):
        parse_params(content)
