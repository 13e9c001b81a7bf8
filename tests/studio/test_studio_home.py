"""Comparing and taking home."""

import json
import shutil
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from nsync_pipeline.pictures import layout
from nsync_pipeline.pictures.layout import store_pictures
from nsync_pipeline.pictures.manifest import SAMPLES, write_manifest
from nsync_pipeline.studio.jobs import Jobs
from nsync_pipeline.workspace import LORA_FILE, MANIFEST_FILE, Workspace
from tests.support.picture_files import save
from tests.support.studio import text_of


@pytest.fixture
def trained(studio: TestClient, workspace: Workspace) -> TestClient:
    """`lora` is trained, and has drawn one caption, as the base has."""
    folder = workspace.model("hills", "lora", 0)
    folder.mkdir(parents=True)
    (folder / LORA_FILE).write_bytes(b"weights")
    origin = {"placeholder": "hls", "base_model": "/models/tiny", "update_rule": "none"}
    (folder / "training.json").write_text(json.dumps({"origin": origin, "steps": 40}))
    for variant in ("base", "lora"):
        drawn = workspace.samples("hills", variant, 0)
        save(drawn / "images" / "x_0.png", 3)
        row = {
            "id": "x_0", "prompt_id": "x", "k": 0, "file": "images/x_0.png", "sha256": "0",
            "width": 96, "height": 80, "caption": "a mill", "prompt": "p", "seed": 1,
            "variant": variant,
        }  # fmt: skip
        write_manifest(drawn / MANIFEST_FILE, [row], SAMPLES)
    return studio


def test_before_anything_is_trained_pages_say_so(studio: TestClient) -> None:
    for tab in ("compare", "home"):
        assert "Nothing is trained yet" in studio.get(f"/styles/hills/{tab}").text


def test_held_out_captions_are_side_by_side(trained: TestClient) -> None:
    page = trained.get("/styles/hills/compare").text
    assert "a mill" in page
    for file in ("samples/hills/base/images/x_0.png", "samples/hills/lora/0/images/x_0.png"):
        assert file in page
        assert trained.get(f"/styles/hills/drawn?file={file}").status_code == 200


def test_a_picture_of_a_large_set_is_given_out_of_its_shard(
    trained: TestClient, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "FEW", 0)
    folder, picture = workspace.samples("hills", "lora", 0), save(tmp_path / "y.png", 4)
    shutil.rmtree(folder / "images")
    file = f"samples/hills/lora/0/{store_pictures(folder, {'y_0': picture})['y_0'].file}"
    found = trained.get(f"/styles/hills/drawn?file={file}")
    assert (found.content, found.headers["content-type"]) == (picture.read_bytes(), "image/png")
    for other in (file.replace("y_0.png", "z_0.png"), file.rpartition("/")[0]):
        assert trained.get(f"/styles/hills/drawn?file={other}").status_code == 404


@pytest.mark.parametrize(
    "name",
    [
        "../params.yaml", "samples/hills/../../params.yaml", "params.yaml", "/etc/passwd",
        "samples/other/x.png", "hills_1.png/../../params.yaml", "sources/hills/a.png", "",
        "samples/hills/base/manifest.parquet",
    ],
)  # fmt: skip
def test_only_pictures_of_the_style_are_given_out(trained: TestClient, name: str) -> None:
    assert trained.get("/styles/hills/drawn", params={"file": name}).status_code == 404
    url = "/styles/hills/home/file"
    assert trained.get(url, params={"run": "lora-0", "name": name}).status_code == 404


def test_own_prompts_are_drawn_by_the_engines_command(
    trained: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, ...]] = []
    monkeypatch.setattr(
        Jobs, "start", lambda self, kind, style, title, command: started.append(tuple(command))
    )
    form = {"prompts": "a cat\n\n --help \n", "seeds": "2", "column": ["base", "lora"], "seed": "5"}
    trained.post("/styles/hills/compare", data=form)
    assert started[0][3:] == (
        "compare", "--style", "hills", "--seeds", "2", "--seed", "5", "--variants", "base,lora",
        "--prompt", "a cat", "--prompt", "--help",
    )  # fmt: skip
    assert trained.post("/styles/hills/compare", data={"prompts": " "}).status_code == 400


def test_what_is_exported_can_be_taken(trained: TestClient, workspace: Workspace) -> None:
    page = text_of(trained.get("/styles/hills/home").text)
    assert "in the style of hls" in page
    assert "40 steps on tiny" in page
    folder = workspace.root / "exports" / "hills" / "lora-0"
    folder.mkdir(parents=True)
    for name in ("export.json", LORA_FILE, "hills_lora.safetensors"):
        (folder / name).write_bytes(b"file " + name.encode())
    page = trained.get("/styles/hills/home").text
    assert "&lt;lora:hills_lora:1&gt;" in page
    assert "ComfyUI/models/loras" in page
    url = "/styles/hills/home/file"
    taken = trained.get(url, params={"run": "lora-0", "name": "hills_lora.safetensors"})
    assert taken.content == b"file hills_lora.safetensors"
    assert "attachment" in taken.headers["content-disposition"]
    assert trained.get(url, params={"run": "lora-0", "name": "export.json"}).status_code == 404
    assert trained.get(url, params={"run": "x-0", "name": LORA_FILE}).status_code == 400


def test_an_export_that_fails_says_why(
    trained: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "nsync_pipeline.studio.jobs.NSYNC", ("/bin/sh", "-c", "echo 'nsync: no' >&2; exit 2")
    )
    page = trained.post("/styles/hills/home", data={"run": "lora-0"})
    assert (page.status_code, ">no<" in page.text) == (400, True)


def test_the_report_is_shown_with_a_policy_of_its_own(
    trained: TestClient, workspace: Workspace
) -> None:
    assert trained.get("/styles/hills/report").status_code == 404
    file = workspace.report("hills") / "report.html"
    file.parent.mkdir(parents=True)
    file.write_text("<p>the report</p>")
    answer = trained.get("/styles/hills/report")
    assert answer.text == "<p>the report</p>"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
