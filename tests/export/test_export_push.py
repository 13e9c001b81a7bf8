"""An export that is pushed to the hub: what arrives there, and what is said where it does not."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsync_pipeline.errors import UserError
from nsync_pipeline.export.folder import RECORD_FILE
from nsync_pipeline.export.hub import push
from nsync_pipeline.files import file_sha256
from nsync_pipeline.workspace import LORA_FILE
from tests.support.fake_hub import OWNER, TOKEN, Hub, fake_hub

REPO = f"{OWNER}/ink"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with fake_hub() as found:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", found.uri)
        place = found.uri + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", place)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield found


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """As ``export_model`` writes it, in small; and something of the person's beside."""
    folder = tmp_path / "export"
    (folder / "images").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Ink\n")
    (folder / LORA_FILE).write_bytes(bytes(range(256)) * 40)
    (folder / "images" / "sample_1.jpg").write_bytes(b"\xff\xd8 a picture")
    record = {name: file_sha256(folder / name) for name in ("README.md", LORA_FILE)}
    (folder / RECORD_FILE).write_text(json.dumps({"files": record}))
    return folder


FILES = ("README.md", RECORD_FILE, LORA_FILE, "images/sample_1.jpg")


def test_what_was_exported_arrives_in_a_private_repository(hub: Hub, export: Path) -> None:
    (export / "notes.txt").write_text("mine")
    pushed = push(export, FILES, REPO)
    assert (pushed.url, pushed.is_new) == (f"{hub.uri}/{REPO}", True)
    assert hub.files[REPO] == {name: (export / name).read_bytes() for name in FILES}
    assert hub.private[REPO]
    assert hub.commits == ["Export of nsync-pipeline"]

    (export / LORA_FILE).write_bytes(b"trained anew")
    again = push(export, FILES, REPO, public=True)
    assert not again.is_new
    assert hub.files[REPO][LORA_FILE] == b"trained anew"
    assert hub.private[REPO]  # as private as it was
    push(export, FILES, f"{OWNER}/shown", public=True)
    assert not hub.private[f"{OWNER}/shown"]


def refusal(export: Path, repo: str = REPO) -> str:
    with pytest.raises(UserError) as caught:
        push(export, FILES, repo)
    message = str(caught.value)
    assert message.startswith(f"{repo} was not pushed, {export} is written: ")
    assert "\n" not in message
    return message


def test_a_name_that_is_taken_by_something_else_is_left_alone(hub: Hub, export: Path) -> None:
    hub.files[REPO] = {"README.md": b"another model"}
    assert "it is taken, and holds no export (export.json): name another" in refusal(export)
    assert hub.files[REPO] == {"README.md": b"another model"}


def test_who_may_not_write_is_told_so(
    hub: Hub, export: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "the token may not write there (You don't have the rights" in refusal(
        export, "other/ink"
    )
    monkeypatch.setenv("HF_TOKEN", "hf_of_another_time")
    assert "the hub does not know the token: log in by `hf auth login`" in refusal(export)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "there is no token: log in by `hf auth login`, or set HF_TOKEN" in refusal(export)
    assert hub.files == {}


@pytest.mark.parametrize(
    ("repo", "why"),
    [
        ("ink", "name whose it is, too"),
        ("a/b/c", "name whose it is, too"),
        ("painter/..", "it is no name on the hub"),
        ("painter/in k", "it is no name on the hub"),
    ],
)
def test_what_is_no_name_of_a_repository_is_refused(
    hub: Hub, export: Path, repo: str, why: str
) -> None:
    assert why in refusal(export, repo)
    assert hub.files == {}


def test_without_a_network_it_is_said_at_once(
    export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_hub() as gone:
        pass
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", gone.uri)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("nsync_pipeline.families.pipeline_folder.getproxies", dict)
    assert "the hub cannot be reached" in refusal(export)
