"""The studio as a person uses it: real clicks and keys in a real Chromium."""

import json
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvicorn

from nsync_pipeline.params import read_params
from nsync_pipeline.studio.app import make_app
from nsync_pipeline.studio.guard import TOKEN as TOKEN_NAME
from nsync_pipeline.studio.tokens import TokenCounts
from nsync_pipeline.workspace import Workspace
from tests.support.fake_workspace import REPOSITORY
from tests.support.picture_files import save
from tests.support.studio import TOKEN, make_studio_workspace, trained_with_steps

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

playwright = pytest.importorskip("playwright.sync_api")
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, PROGRAMS)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

FAKE = (sys.executable, str(REPOSITORY / "tests" / "support" / "fake_nsync.py"))
PATIENCE = 60_000  # milliseconds that a page may take on a busy machine


@pytest.fixture(scope="module")
def chromium() -> Iterator["Browser"]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "workspace").mkdir()
    return make_studio_workspace(tmp_path / "workspace")


@pytest.fixture
def link(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A studio with a socket, whose trainings are fakes."""
    monkeypatch.setattr("nsync_pipeline.studio.jobs.NSYNC", FAKE)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("NSYNC_TRACKING", "off")
    monkeypatch.setattr(TokenCounts, "prepare", lambda *_: None)  # no model is loaded
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(make_app(workspace, TOKEN), log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/?{TOKEN_NAME}={TOKEN}"
    server.should_exit = True
    thread.join(timeout=10)


@pytest.fixture
def page(chromium: "Browser", link: str) -> Iterator["Page"]:
    """A page that was opened by the link; what goes wrong in it fails the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE)
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.goto(link)
    yield opened
    context.close()
    assert wrong == []


def by_hand(workspace: Workspace) -> dict[str, str]:
    path = workspace.captions_by_hand("hills")
    lines = path.read_text().splitlines() if path.is_file() else []
    return {line["file"]: line["caption"] for line in map(json.loads, lines)}


def test_captions_are_written_with_the_keyboard(page: "Page", workspace: Workspace) -> None:
    page.get_by_role("link", name="hills").click()
    page.get_by_text("4 in the set").wait_for()
    page.keyboard.press("2")  # the tab of captions
    page.get_by_text("3 of 4 captioned").wait_for()
    box = page.locator("#caption")
    assert page.locator("#about").inner_text().startswith("d.png")  # the first without a caption
    page.keyboard.type("an oil painting of a mill")
    page.locator("#final").get_by_text("a mill", exact=True).wait_for()
    assert page.locator("#pieces .style").inner_text() == "an oil painting of"
    page.keyboard.press("Enter")
    page.get_by_text("4 of 4 captioned").wait_for()
    page.locator("#about").get_by_text("sub/c.png").wait_for()
    assert by_hand(workspace) == {"d.png": "an oil painting of a mill"}
    page.keyboard.press("Alt+ArrowUp")
    page.locator("#about").get_by_text("d.png").wait_for()
    assert box.input_value() == "an oil painting of a mill"

    page.locator("#replace input[name=find]").fill("water")
    page.locator("#replace input[name=by]").fill("a lake")
    page.get_by_text("in 2 captions").wait_for()
    page.get_by_role("button", name="Replace in all").click()
    page.get_by_text("Replaced in 2 captions").wait_for()
    assert by_hand(workspace)["b.jpg"] == "a hill, a lake"
    page.get_by_role("button", name="Undo").click()
    page.locator("#chips").get_by_text("water").wait_for()
    assert by_hand(workspace) == {"d.png": "an oil painting of a mill"}
    page.locator("#chips").get_by_text("water").click()
    assert page.locator("#list li").count() == 2


def test_a_caption_that_another_page_changed_is_not_lost(
    page: "Page", workspace: Workspace
) -> None:
    go_to = page.url + "styles/hills/captions"
    page.goto(go_to)
    other = page.context.new_page()
    other.goto(go_to)
    for one, text in ((page, "a mill"), (other, "a tower")):
        one.locator("#about").get_by_text("d.png").wait_for()
        one.locator("#caption").fill(text)
    page.locator("#save").click()
    page.get_by_text("4 of 4 captioned").wait_for()
    other.locator("#save").click()
    other.locator("#conflict").get_by_text("a mill").wait_for()
    assert by_hand(workspace) == {"d.png": "a mill"}
    other.get_by_role("button", name="Keep mine").click()
    other.locator("#conflict").wait_for(state="hidden")
    assert by_hand(workspace) == {"d.png": "a tower"}


def test_pictures_come_in_go_out_and_come_back(
    page: "Page", workspace: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "My Lakes"
    for seed in range(3):
        save(folder / f"{seed}.png", 60 + seed)
    page.locator("#new input[webkitdirectory]").set_input_files(folder)
    page.get_by_text("3 files ready").wait_for()
    assert page.locator("#new input[name=name]").input_value() == "my_lakes"
    page.get_by_role("button", name="Make it a style").click()
    page.wait_for_url("**/styles/my_lakes/pictures*")
    page.get_by_text("3 in the set").wait_for()
    page.get_by_role("button", name="Leave out 1.png").click()
    page.get_by_text("2 in the set").wait_for()
    assert read_params(workspace.params_file).style("my_lakes").excluded == ("1.png",)
    page.get_by_role("button", name="Bring back 1.png").click()
    page.get_by_text("3 in the set").wait_for()
    assert len(list(workspace.source("my_lakes").glob("*.png"))) == 3
    page.locator(".thumb").first.click()
    page.locator("dialog img").wait_for()
    page.keyboard.press("Escape")


def test_a_style_is_trained_and_watched(page: "Page", workspace: Workspace) -> None:
    page.goto(page.url + "styles/hills/train")
    page.get_by_label("nsync").uncheck()
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/watch")
    page.get_by_role("heading", name="Watch hills").wait_for()
    page.locator(".charts svg").first.wait_for()
    summary = page.get_by_text("What is there, what is to be made")
    summary.click()
    limit = time.monotonic() + 60
    while page.locator(".queue li.done").count() < 6:  # pictures, captions, negatives, lora, drawn
        assert time.monotonic() < limit
        page.wait_for_timeout(300)
    assert workspace.model("hills", "lora", 0).is_dir()
    assert not workspace.model("hills", "nsync", 0).exists()


def test_one_of_the_saved_weights_is_chosen_by_a_click(page: "Page", workspace: Workspace) -> None:
    trained_with_steps(workspace)
    page.goto(page.url + "styles/hills/watch")
    saved = page.locator(".saved figure")
    saved.filter(has_text="step 40").get_by_text("in use").wait_for()
    saved.filter(has_text="step 20").get_by_role("button", name="Use this one").click()
    page.get_by_text("Step 20 of nsync-0 is used from now on").wait_for()
    saved.filter(has_text="step 20").get_by_text("in use").wait_for()
    assert read_params(workspace.params_file).style("hills").use_steps["nsync-0"].step == 20
    saved.filter(has_text="step 10").locator(".thumb").click()
    page.locator("dialog img").wait_for()


def test_nothing_is_wider_than_a_phone(page: "Page") -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    first = page.url
    tabs = ("pictures", "captions", "train", "watch", "compare", "home")
    for path in ("", *(f"styles/hills/{tab}" for tab in tabs)):
        page.goto(first + path)
        too_wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(too_wide) == 0, path
