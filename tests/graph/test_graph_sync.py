"""``nsync sync`` brings dvc.yaml and what belongs to it in order, and changes nothing else."""

import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from nsync_pipeline.errors import ParamsError
from nsync_pipeline.graph.artefacts import Graph
from nsync_pipeline.graph.dvc import check_dvc_file, dvc_reason, dvc_text, sync_dvc_file
from nsync_pipeline.params import parse_params, read_params
from nsync_pipeline.workspace import Workspace
from tests.support.fake_workspace import REPOSITORY, FakeWorkspace


@pytest.fixture
def synced(tmp_path: Path) -> Workspace:
    """The project's own settings, in order."""
    shutil.copyfile(REPOSITORY / "params.yaml", tmp_path / "params.yaml")
    workspace = Workspace(tmp_path)
    sync_dvc_file(workspace)
    return workspace


def edit(workspace: Workspace, before: str, after: str) -> None:
    text = workspace.params_file.read_text()
    assert text.count(before) == 1, before
    workspace.params_file.write_text(text.replace(before, after))


def check(workspace: Workspace) -> None:
    check_dvc_file(Graph.read(workspace))


def comments(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text().splitlines() if "#" in line]


def files(workspace: Workspace) -> dict[str, bytes]:
    root = workspace.root
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_second_time_changes_nothing(synced: Workspace) -> None:
    before = files(synced)
    assert sync_dvc_file(synced) == []
    assert files(synced) == before
    check(synced)


NAMES = st.from_regex(r"[a-z0-9][a-z0-9_]{0,9}", fullmatch=True) | st.sampled_from(
    ["null", "true", "no", "1e5", "0x1f", "0o7", "1_0", "007"]
)


@settings(deadline=None, max_examples=25)
@given(st.lists(NAMES, min_size=1, max_size=3, unique=True))
def test_dvc_is_given_every_name_as_it_is_written(names: list[str]) -> None:
    """And nothing of params.yaml that it would put into a shell's line by itself."""
    params = parse_params(
        {
            "styles": {name: {"source": "folder"} for name in names},
            "variants": {name: {"update_rule": "none"} for name in names if name != "base"} or {
                "lora": {"update_rule": "none"}
            },
            "ablation": {"grid": {"steps": [1, 2]}},
        }
    )  # fmt: skip
    for of_ablation in (False, True):
        text = dvc_text(Graph(Workspace(Path("/nowhere")), params), of_ablation)
        content = YAML(typ="safe", pure=True).load(text)
        expanded = re.findall(r"\$\{(.*?)\}", text)
        assert set(expanded) == {
            "nsync", "item.style", "item.variant", "item.training_seed",
        }  # fmt: skip
        for stage in content["stages"].values():
            assert stage["matrix"]["style"] == names
            assert all(isinstance(v, str) for v in stage["matrix"].get("variant", ()))


def test_a_name_that_a_shell_would_expand_reaches_no_file(synced: Workspace) -> None:
    before = files(synced)
    text = synced.params_file.read_text()
    synced.params_file.write_text(text.replace("  woodblock:", '  "x$(touch F)":'))
    with pytest.raises(ParamsError, match="is not a name"):
        sync_dvc_file(synced)
    assert files(synced).keys() == before.keys()
    assert files(synced)["dvc.yaml"] == before["dvc.yaml"]


FULL_REMOTE = """\
ERROR: failed to transfer '60869af' - [Errno 28] No space left on device: 'a' -> 'r'
ERROR: failed to transfer 'efa583f' - [Errno 28] No space left on device: 'b' -> 'r'
ERROR: failed to push data to the cloud - 2 files failed to upload
"""
EMPTY_REMOTE = """\
WARNING: Some of the cache files do not exist neither locally nor on remote. Missing cache files:
md5: d41d8cd98f00b204e9800998ecf8427e.dir
ERROR: failed to pull data from the cloud - Checkout failed for following targets:
other
Is your cache up to date?
"""


CONFLICT = """\
'./x.dvc' is invalid (possible merge conflicts).

Mapping values are not allowed in this context, in line 2, column 5
  2 outs: []
"""


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        ("ERROR: /w is not a git repository\n", "/w is not a git repository: run `git init` there"),
        ("ERROR: you are not inside of a DVC repository (checked up to '/')\n", "run `dvc init`"),
        ("WARNING: x\nERROR: a\n  more\nERROR: b\n", "a; b: put that right"),
        ("Traceback (most recent call last):\n  File\nKeyError: 'x'\n", "KeyError: 'x': put that"),
        ("", "it ended with 255: put that right"),
        (CONFLICT, "'./x.dvc' is invalid (possible merge conflicts). Mapping values are not"),
        ("/usr/bin/python: No module named dvc\n", "No module named dvc: put that right"),
        (FULL_REMOTE, "No space left on device: 'a' -> 'r'; failed to push data to the cloud - 2"),
        (FULL_REMOTE, "2 files failed to upload: make room there"),
        (EMPTY_REMOTE, "Checkout failed for following targets: the remote does not hold it"),
        ("ERROR: https://me:secret@host/x failed", "https://***@host/x failed"),
    ],
)
def test_why_dvc_failed_is_one_line(stderr: str, said: str) -> None:
    reason = dvc_reason(stderr, 255)
    assert said in reason
    assert reason.isprintable()


def test_a_first_time_says_what_it_wrote(tmp_path: Path) -> None:
    shutil.copyfile(REPOSITORY / "params.yaml", tmp_path / "params.yaml")
    assert sync_dvc_file(Workspace(tmp_path)) == [
        "dvc.yaml: written anew",
        "sources/woodblock: made, as DVC and git want it there",
        "captions/woodblock.jsonl: made, as DVC and git want it there",
        "choices/woodblock: made, as DVC and git want it there",
    ]


@pytest.mark.parametrize(
    ("before", "after", "dep"),
    [
        (
            "  nsync_every_4:\n", "  gentle:\n    update_rule: none\n  nsync_every_4:\n",
            "samples/${item.style}/gentle/0/SHA256SUMS",
        ),
        (
            "training_seeds: [0]\n", "training_seeds: [0, 3]\n",
            "samples/${item.style}/nsync/3/SHA256SUMS",
        ),
    ],
)  # fmt: skip
def test_a_new_variant_or_seed_is_told_and_synced(
    synced: Workspace, before: str, after: str, dep: str
) -> None:
    edit(synced, before, after)
    with pytest.raises(ParamsError, match=r"dvc\.yaml is not what .* ask for: `nsync sync`"):
        check(synced)
    assert sync_dvc_file(synced) == ["dvc.yaml: written anew"]
    check(synced)
    stages = YAML(typ="safe").load(synced.root / "dvc.yaml")["stages"]
    assert dep in stages["evaluation"]["deps"]
    assert dep in stages["report"]["deps"]


def test_an_edited_line_is_told_and_put_back(synced: Workspace) -> None:
    path = synced.root / "dvc.yaml"
    before = path.read_text()
    path.write_text(before.replace("persist: true", "persist: false", 1))
    with pytest.raises(ParamsError, match=r"dvc\.yaml is not what"):
        check(synced)
    sync_dvc_file(synced)
    assert path.read_text() == before


def test_a_larger_ablation_is_told_and_synced(synced: Workspace) -> None:
    assert sync_dvc_file(synced, ablation=True) == ["ablations/dvc.yaml: written anew"]
    edit(synced, "training_seeds: [0, 1, 2]", "training_seeds: [0, 1, 2, 5]")
    with pytest.raises(ParamsError, match=r"ablations/dvc\.yaml is not what"):
        check(synced)
    assert sync_dvc_file(synced) == ["ablations/dvc.yaml: written anew"]
    check(synced)


def test_a_hand_written_dvc_yaml_is_kept(synced: Workspace) -> None:
    path = synced.root / "dvc.yaml"
    path.write_text("stages:\n  mine:\n    cmd: echo mine\n")
    assert sync_dvc_file(synced) == [
        "dvc.yaml.before: what it was before, as you wrote it", "dvc.yaml: written anew"
    ]  # fmt: skip
    assert "echo mine" in (synced.root / "dvc.yaml.before").read_text()
    check(synced)


def test_a_second_hand_written_dvc_yaml_does_not_overwrite_the_first(synced: Workspace) -> None:
    for text in ("stages: {first: {cmd: echo}}\n", "stages: {second: {cmd: echo}}\n"):
        (synced.root / "dvc.yaml").write_text(text)
        sync_dvc_file(synced)
    kept = [path.read_text() for path in sorted(synced.root.glob("dvc.yaml.before*"))]
    assert ["first" in text for text in kept] == [True, False]
    assert "second" in kept[1]


def test_a_key_left_to_its_default_is_written_out(synced: Workspace) -> None:
    """DVC would refuse to record a stage whose tracked key is not in params.yaml."""
    edit(synced, "    placeholder: sks\n", "")
    params, before = read_params(synced.params_file), comments(synced.params_file)
    with pytest.raises(ParamsError, match=r"DVC tracks styles\.woodblock\.placeholder"):
        check(synced)
    said = sync_dvc_file(synced)
    assert said == ["params.yaml: styles.woodblock.placeholder written out, as DVC tracks it"]
    assert read_params(synced.params_file) == params
    assert comments(synced.params_file) == before
    check(synced)


def test_a_whole_section_left_out_is_written_out(tmp_path: Path) -> None:
    """Also `ablation`'s file is in order where there is no other setting."""
    text = "styles: {ink: {source: folder}}\nvariants: {lora: {update_rule: none}}\n"
    (tmp_path / "params.yaml").write_text(text)
    workspace = Workspace(tmp_path)
    params = read_params(workspace.params_file)
    said = sync_dvc_file(workspace)
    assert "params.yaml: training written out, as DVC tracks it" in said
    assert read_params(workspace.params_file) == params
    check(workspace)
    assert sync_dvc_file(workspace) == []
    assert not (tmp_path / "ablations").exists()


def test_a_workspace_without_a_folder_for_choices_is_told_and_synced(synced: Workspace) -> None:
    shutil.rmtree(synced.root / "choices")
    with pytest.raises(ParamsError, match=r"choices/woodblock is not there.*`nsync sync` brings"):
        check(synced)
    assert sync_dvc_file(synced) == ["choices/woodblock: made, as DVC and git want it there"]
    check(synced)
    made = synced.choices("woodblock") / "README.md"
    assert made.read_bytes() == (REPOSITORY / "choices" / "woodblock" / "README.md").read_bytes()


def test_a_folder_without_dvc_yaml_is_named(synced: Workspace) -> None:
    (synced.root / "dvc.yaml").unlink()
    with pytest.raises(ParamsError, match=r"dvc\.yaml is not there: run this in a workspace"):
        check(synced)


def test_a_rejected_params_file_changes_nothing(synced: Workspace) -> None:
    edit(synced, "  steps: 100", "  stpes: 100")
    before = files(synced)
    with pytest.raises(ParamsError, match=r"training\.stpes: unknown key \(did you mean steps"):
        sync_dvc_file(synced)
    assert files(synced) == before


def test_choices_are_kept_by_git(fake: FakeWorkspace) -> None:
    """They are people's own work: no rule may leave them out."""
    shutil.copyfile(REPOSITORY / ".gitignore", fake.root / ".gitignore")
    fake.call("git", "init", "-q")
    (fake.workspace.choices("ink") / "one.json").write_text("{}")
    found = fake.call("git", "ls-files", "--others", "--exclude-standard", "choices").stdout
    assert found.split() == ["choices/ink/README.md", "choices/ink/one.json"]


def test_what_dvc_needs_is_kept_by_git_and_artefacts_are_not(fake: FakeWorkspace) -> None:
    shutil.copyfile(REPOSITORY / ".gitignore", fake.root / ".gitignore")
    fake.call("git", "init", "-q")
    sync_dvc_file(fake.workspace, ablation=True)
    (fake.root / "ablations" / "dvc.lock").write_text("")
    for path in ("ablations/ink/models/m", "models/ink/m", "data/ink/d", ".nsync/s"):
        (fake.root / path).parent.mkdir(parents=True, exist_ok=True)
        (fake.root / path).write_text("made")
    found = fake.call("git", "ls-files", "--others", "--exclude-standard").stdout.split()
    assert found == [
        ".gitignore", "ablations/dvc.lock", "ablations/dvc.yaml", "captions/ink.jsonl",
        "choices/ink/README.md", "dvc.yaml", "params.yaml", "sources/ink/README.md",
    ]  # fmt: skip
