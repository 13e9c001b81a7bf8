"""A workspace with a style of a few pictures, and the studio on it, without a socket."""

import json
import re
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from PIL import Image
from starlette.testclient import TestClient

from nsync_pipeline.pictures.sheets import contact_sheet
from nsync_pipeline.studio.app import make_app
from nsync_pipeline.studio.page import Desk
from nsync_pipeline.studio.picture_desk import Pictures
from nsync_pipeline.workspace import LORA_FILE, Workspace, step_folder
from tests.support.picture_files import save

TOKEN = "a-token-of-the-tests"
BASE = "http://127.0.0.1:4321"
PARAMS = """\
# The settings of the tests.
base_model: {device: cpu}
styles:
  hills:
    source: folder
    placeholder: hls  # the word
style_set: {min_side: 16}
captioning:
  model: null
training:
  steps: 40
variants:
  lora: {update_rule: none}
  nsync: {update_rule: orthogonal}
"""
CAPTIONS = {"a": "an oil painting of a red boat, water", "b": "a hill, water", "c": "a cow"}


def make_studio_workspace(root: Path) -> Workspace:
    """Six pictures: three captioned, one of them twice, one too small, one unreadable."""
    workspace = Workspace(root)
    workspace.params_file.write_text(PARAMS)
    source = workspace.source("hills")
    for seed, name in enumerate(("a.png", "b.jpg", "sub/c.png", "d.png")):
        save(source / name, seed, 96, 80)
    save(source / "e.png", 0, 96, 80)  # as a.png
    save(source / "small.png", 7, 12, 12)
    (source / "torn.png").write_bytes(b"\x89PNG and no more")
    for name, caption in CAPTIONS.items():
        (source / ("sub" if name == "c" else "") / f"{name}.txt").write_text(caption)
    return workspace


def client_of(workspace: Workspace) -> TestClient:
    """A browser that was given the link."""
    client = TestClient(make_app(workspace, TOKEN), base_url=BASE, headers={"Origin": BASE})
    assert client.get(f"/?token={TOKEN}", follow_redirects=False).status_code == 303
    return client


def desk_of(client: TestClient) -> Desk:
    return client.app.state.desk  # type: ignore[attr-defined]


def read_all(client: TestClient, style: str = "hills") -> Pictures:
    """The pictures, once all are read."""
    desk = desk_of(client)
    while (found := desk.pictures.pictures(desk.graph(), style)).reading is not None:
        time.sleep(0.02)
    return found


def said(url: str) -> str:
    """The notice in the address of a page."""
    return parse_qs(urlsplit(url).query).get("notice", [""])[0]


def text_of(html: str) -> str:
    """What a page says, without its tags."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def trained_with_steps(workspace: Workspace) -> Path:
    """A training of 40 steps that saved two on the way, and drew two prompts at each look."""
    model = workspace.model("hills", "nsync", 0)
    (model / "looks").mkdir(parents=True)
    for step, folder in ((10, step_folder(model, 10)), (20, step_folder(model, 20)), (40, model)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LORA_FILE).write_text(f"weights of {step}")
        colours = [Image.new("RGB", (64, 64), (step, 0, 200 * prompt)) for prompt in (0, 1)]
        contact_sheet(colours, 2, 64).save(model / "looks" / f"{step:08d}.jpg", quality=95)
    said = [{"prompt": "a hill", "own": False}, {"prompt": "a <cat>", "own": True}]
    (model / "looks" / "prompts.json").write_text(json.dumps(said))
    (model / "history.csv").write_text("step,loss_positive\n40,0.5\n")
    origin = {"placeholder": "hls", "base_model": "sketchbook", "update_rule": "orthogonal"}
    summary = {"kept_step": 40, "steps": 40, "origin": origin}
    (model / "training.json").write_text(json.dumps(summary))
    return model
