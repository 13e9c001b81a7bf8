"""``nsync add-style`` at the command line, with a real DVC repository."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nsync_pipeline.params import read_params
from nsync_pipeline.seeding import numpy_stream
from tests.support.command_line import Done, nsync

PARAMS = """\
styles:
  drawn:                      # the first
    source: sketchbook:woodblock
    pictures: 8
variants:
  lora: {update_rule: none}   # plain
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    (folder / "params.yaml").write_text(PARAMS)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Six captioned pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(6):
        noise = numpy_stream(0, "picture", index).integers(0, 256, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"boat number {index}")
    return folder


def dvc(folder: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, check=True, timeout=300)


def add_style(folder: Path, *arguments: str) -> Done:
    return nsync(folder, "add-style", *arguments)


def test_a_style_comes_in_with_its_settings(workspace: Path, pictures: Path) -> None:
    done = add_style(
        workspace, "monet", str(pictures), "--placeholder", "mnt", "--style-word", "monet"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    style = read_params(workspace / "params.yaml").style("monet")
    assert (style.source, style.placeholder, style.style_words) == ("folder", "mnt", ("monet",))
    assert len(list((workspace / "sources" / "monet").glob("*.png"))) == 6
    text = (workspace / "params.yaml").read_text()
    assert "# the first" in text
    assert "# plain" in text
    assert not (workspace / "sources" / "monet.dvc").exists()  # no DVC repository here


def test_in_a_dvc_repository_the_pictures_are_versioned(workspace: Path, pictures: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=workspace, check=True)
    dvc(workspace, "init", "--quiet")
    done = add_style(workspace, "monet", str(pictures))

    assert done.returncode == 0, done.stderr
    assert "sources/monet.dvc" in done.stdout
    assert "nfiles: 12" in (workspace / "sources" / "monet.dvc").read_text()
    dvc(workspace, "status")


def test_when_dvc_fails_the_style_is_in_and_the_message_says_how_to_go_on(
    workspace: Path, pictures: Path
) -> None:
    (workspace / ".dvc").mkdir()
    (workspace / ".dvc" / "config").write_text("[core\n")
    done = add_style(workspace, "monet", str(pictures))

    assert done.returncode == 2
    assert "`dvc add sources/monet` failed: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "monet" in read_params(workspace / "params.yaml").styles


def test_what_cannot_be_used_changes_nothing(workspace: Path, pictures: Path) -> None:
    (pictures / "3.txt").unlink()
    settings = f"{PARAMS}captioning: {{model: null}}\n"
    (workspace / "params.yaml").write_text(settings)
    done = add_style(workspace, "monet", str(pictures))

    assert done.returncode == 2
    assert "3.png" in done.stderr
    assert (workspace / "params.yaml").read_text() == settings
    assert not (workspace / "sources").exists()


def test_who_describes_pictures_without_a_caption_is_told(workspace: Path, pictures: Path) -> None:
    (pictures / "3.txt").unlink()
    done = add_style(workspace, "monet", str(pictures))

    assert done.returncode == 0, done.stderr
    assert "are described by OpenGVLab/InternVL3-1B-hf (captioning)" in done.stdout
    assert "is not on this machine: without a network, write their captions" in done.stdout
    assert "Before you train: the embedded base has never seen a real picture" in done.stdout


def test_a_drawn_style_needs_no_folder(workspace: Path) -> None:
    done = add_style(workspace, "glass", "sketchbook:stained_glass", "--pictures", "12")

    assert done.returncode == 0, done.stderr
    assert read_params(workspace / "params.yaml").style("glass").pictures == 12
    assert "Before you train" not in done.stdout


def test_where_dvc_runs_the_stages_the_style_has_a_folder_for_choices(workspace: Path) -> None:
    repository = Path(__file__).resolve().parents[2]
    for name in ("params.yaml", "dvc.yaml"):
        (workspace / name).write_bytes((repository / name).read_bytes())
    done = add_style(workspace, "glass", "sketchbook:stained_glass", "--pictures", "12")

    assert done.returncode == 0, done.stderr
    assert "choices/glass: made, as DVC and git want it there\n" in done.stdout
    assert "`glass`" in (workspace / "choices" / "glass" / "README.md").read_text()


def test_a_name_that_turns_the_line_round_is_shown_as_it_is(
    workspace: Path, pictures: Path
) -> None:
    (pictures / "a\u202egnp.png").write_bytes((pictures / "0.png").read_bytes())
    done = add_style(workspace, "monet", str(pictures))
    assert "  duplicates_are: a\\u202egnp.png = 0.png\n" in done.stdout
    assert all(line.isprintable() for line in done.stdout.splitlines())
