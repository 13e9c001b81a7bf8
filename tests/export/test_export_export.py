"""The export of a trained variant: what is in it, that it loads, and that nothing is lost."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save

from nsync_pipeline.adaptation.lora import lora_layers
from nsync_pipeline.adaptation.lora_file import read_lora_file, write_lora_file
from nsync_pipeline.adaptation.saved_steps import ChosenStep
from nsync_pipeline.adaptation.trainables import load_trained
from nsync_pipeline.cli.app import export as export_command
from nsync_pipeline.contrast.config import UpdateRule
from nsync_pipeline.errors import MissingArtifactError, ParamsError, UserError
from nsync_pipeline.evaluation.record import EVALUATION_FILE
from nsync_pipeline.export.folder import NO_DIFFUSERS_LOHA, default_folder, export_model
from nsync_pipeline.export.model import RULES
from nsync_pipeline.metrics.bootstrap import Interval
from nsync_pipeline.metrics.verdict import Comparison
from nsync_pipeline.params import Params
from nsync_pipeline.workspace import LORA_FILE, Workspace, step_folder
from tests.support.diffusers_pictures import our_pictures, pipeline_of, their_pictures
from tests.support.drawing_workspace import folder_bytes
from tests.support.shared_variant import RIGHTS, trained_workspace
from tests.support.tiny_models import save_tiny_stable_diffusion
from tests.support.tiny_style import STYLE, tiny_family

PROMPTS = ["a red house in the style of sks", "a tree"]
KOHYA_FILE = f"{STYLE}_nsync.safetensors"
EMBEDDINGS = f"{STYLE}_nsync_embeddings.safetensors"
IMAGES = ["images/comparison.jpg", "images/sample_1.jpg", "images/sample_2.jpg"]


@pytest.fixture(scope="module")
def made(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Params]:
    return trained_workspace(tmp_path_factory.mktemp("workspace"), tiny_base)


@pytest.fixture(scope="module")
def exported(made: tuple[Workspace, Params], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "ink"
    export_model(*made, STYLE, "nsync", "all", folder)
    return folder


def card_metadata(folder: Path) -> dict[str, Any]:
    text = (folder / "README.md").read_text("utf-8")
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def test_it_holds_both_forms_a_card_and_pictures(exported: Path) -> None:
    files = sorted(p.relative_to(exported).as_posix() for p in exported.rglob("*") if p.is_file())
    assert files == sorted(["README.md", "export.json", LORA_FILE, KOHYA_FILE, *IMAGES])


@pytest.mark.parametrize("name", [LORA_FILE, KOHYA_FILE])
def test_each_form_draws_the_same_pictures_in_diffusers(
    made: tuple[Workspace, Params], exported: Path, tiny_base: Path, name: str
) -> None:
    workspace, _ = made
    family = tiny_family(tiny_base)
    bare = our_pictures(family, PROMPTS)
    load_trained(family, workspace.model(STYLE, "nsync", 0))
    pipeline = pipeline_of(tiny_base)
    pipeline.load_lora_weights(exported, weight_name=name)
    theirs = their_pictures(pipeline, family, PROMPTS)
    assert np.abs(our_pictures(family, PROMPTS) - theirs).max() <= 1
    assert np.abs(bare - theirs).max() > 1


def test_the_kohya_file_says_what_it_is(exported: Path, tiny_base: Path) -> None:
    with safe_open(exported / KOHYA_FILE, framework="pt") as file:
        metadata = file.metadata()
    expected = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "2",
        "ss_network_alpha": "4",
        "ss_network_args": '{"conv_alpha": "4", "conv_dim": "2"}',
        "ss_base_model_version": "sd_v1",
        "ss_sd_model_name": tiny_base.name,
        "ss_v2": "False",
        "ss_resolution": "(32, 32)",
        "ss_num_train_images": "5",
        "ss_max_train_steps": "1",
        "ss_learning_rate": "0.1",
        "ss_tag_frequency": '{"1_ink": {"in the style of sks": 5}}',
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.title": "ink (nsync)",
        "modelspec.trigger_phrase": "in the style of sks",
        "modelspec.resolution": "32x32",
        "modelspec.prediction_type": "epsilon",
        "modelspec.license": "cc-by-4.0",
        "modelspec.hash_sha256": f"0x{metadata['sshs_model_hash']}",
    }
    assert {name: metadata[name] for name in expected} == expected
    assert {"modelspec.date", "modelspec.author"} & metadata.keys() == set()


def test_hashes_are_kohyas(exported: Path) -> None:
    """The numbers of a file with the training's metadata alone, and 64 KiB of its second MiB."""
    with safe_open(exported / KOHYA_FILE, framework="pt") as file:
        metadata = file.metadata()
    training = {name: value for name, value in metadata.items() if name.startswith("ss_")}
    content = save(load_file(exported / KOHYA_FILE), training)
    header = 8 + int.from_bytes(content[:8], "little")
    assert metadata["sshs_model_hash"] == hashlib.sha256(content[header:]).hexdigest()
    legacy = hashlib.sha256(content[2**20 : 2**20 + 2**16]).hexdigest()[:8]
    assert metadata["sshs_legacy_hash"] == legacy


def test_the_card_has_the_hubs_metadata(exported: Path) -> None:
    metadata = card_metadata(exported)
    assert metadata["license"] == "cc-by-4.0"
    assert metadata["instance_prompt"] == "in the style of sks"
    assert metadata["library_name"] == "diffusers"
    assert metadata["pipeline_tag"] == "text-to-image"
    assert {"lora", "stable-diffusion"} <= set(metadata["tags"])
    assert "base_model" not in metadata  # it is a folder here, none of the hub's
    assert [example["output"]["url"] for example in metadata["widget"]] == IMAGES[1:]
    assert all(example["text"].endswith("in the style of sks") for example in metadata["widget"])


def test_the_card_tells_what_was_trained_on_what(
    made: tuple[Workspace, Params], exported: Path, tiny_base: Path
) -> None:
    text = (exported / "README.md").read_text("utf-8")
    summary = json.loads((made[0].model(STYLE, "nsync", 0) / "training.json").read_text())
    for told in (
        summary["origin"]["data_sha256"],
        summary["origin"]["base_revision"],
        "A LoRA of rank 2, alpha 4, trained on 5 pictures",
        "`orthogonal_anchor`",
        "learning_rate: 0.1",
        "> Drawn by my grandmother;\n> she gave them to me | to use.",
        "It was not evaluated.",
        "It is one training, from one seed",
    ):
        assert told in text, told
    assert str(tiny_base.parent) not in text


def test_figures_are_told_with_their_intervals(
    made: tuple[Workspace, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the evaluation has them: the share of near-copies in per cent, minus signs as such."""
    workspace = Workspace(tmp_path / "evaluated")
    shutil.copytree(made[0].root, workspace.root)
    workspace.evaluation(STYLE).mkdir(parents=True)
    (workspace.evaluation(STYLE) / EVALUATION_FILE).touch()
    margin = {
        name: {"style_margin": Interval(value, value - 0.02, value + 0.02)}
        for name, value in (("base", -0.25), ("nsync", 0.125), ("real", 0.25))
    }
    found = SimpleNamespace(
        untrained={"base": margin["base"]},
        trainings={"nsync": {0: margin["nsync"] | {"copy_rate": Interval(0.5, 0.25, 0.75)}}},
        ceiling=margin["real"],
        counts={"pictures": 7, "prompts": 2},
        curves=None,
        extractors={"CLIP": ("/models/clip_l", "ab" * 32)},
        warnings=("Only 2 held-out captions were drawn.",),
        against_base=[
            Comparison(
                a="nsync", b="base", style_margin=Interval(0.375), cmmd=Interval(-1.0),
                p_style_margin=0.01, p_cmmd=0.01, a_breaks=(), b_breaks=(), verdict="better",
            )
        ],
    )  # fmt: skip
    monkeypatch.setattr("nsync_pipeline.export.card.read_evaluation", lambda folder: found)
    export_model(workspace, made[1], STYLE, "nsync", "kohya", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    for told in (
        "| Style margin | higher | −0.250 (−0.270 to −0.230) | 0.125 (0.105 to 0.145) | "
        "0.250 (0.230 to 0.270) |",
        "| Near-copies | lower |  | 50 % (25 to 75) |  |",
        "Of 7 pictures of 2 captions",
        "Features: CLIP: clip_l (`abababababababab`).",
        "Against the base: better. nsync is nearer to the style by both measures",
        "- Only 2 held-out captions were drawn.",
    ):
        assert told in text, told


def test_no_folder_of_this_machine_is_told(exported: Path, tiny_base: Path) -> None:
    for path in exported.rglob("*"):
        if path.is_file():
            assert str(tiny_base.parent).encode() not in path.read_bytes(), path


def test_pictures_of_the_card_are_readable(exported: Path) -> None:
    with Image.open(exported / "images/sample_1.jpg") as sample:
        assert sample.size == (256, 256)  # 32 px, eight times
    with Image.open(exported / "images/comparison.jpg") as comparison:
        assert comparison.width > 2 * 256


def test_the_same_variant_is_exported_to_the_same_bytes(
    made: tuple[Workspace, Params], exported: Path, tmp_path: Path
) -> None:
    export_model(*made, STYLE, "nsync", "all", tmp_path / "again")
    assert folder_bytes(tmp_path / "again") == folder_bytes(exported)


@pytest.mark.parametrize(("form", "file"), [("diffusers", LORA_FILE), ("kohya", KOHYA_FILE)])
def test_one_form_alone(
    made: tuple[Workspace, Params], tmp_path: Path, form: Any, file: str
) -> None:
    """Where an export of both forms lay, only the one asked for is left."""
    folder = tmp_path / "out"
    export_model(*made, STYLE, "nsync", "all", folder)
    export_model(*made, STYLE, "nsync", form, folder)
    assert [path.name for path in folder.glob("*.safetensors")] == [file]


@pytest.mark.parametrize("name", ["notes.txt", "README.md", "images/mine.jpg"])
def test_a_file_of_somebody_is_never_lost(
    made: tuple[Workspace, Params], tmp_path: Path, name: str
) -> None:
    """One put into an export, or an edited model card."""
    folder = tmp_path / "out"
    export_model(*made, STYLE, "nsync", "all", folder)
    (folder / name).write_text("mine")
    before = folder_bytes(folder)
    with pytest.raises(UserError, match="is not as an export wrote it, and would be lost"):
        export_model(*made, STYLE, "nsync", "all", folder)
    assert folder_bytes(folder) == before


def test_a_folder_that_is_no_export_is_left_alone(
    made: tuple[Workspace, Params], tmp_path: Path
) -> None:
    model = made[0].model(STYLE, "nsync", 0)
    before = folder_bytes(model)
    with pytest.raises(UserError, match="would be lost"):
        export_model(*made, STYLE, "nsync", "all", model)
    assert folder_bytes(model) == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        export_model(*made, STYLE, "nsync", "all", tmp_path / "file")


def test_a_failed_export_leaves_the_earlier_one(
    made: tuple[Workspace, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    export_model(*made, STYLE, "nsync", "all", folder)
    before = folder_bytes(tmp_path)

    def full(card: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nsync_pipeline.export.folder.render", full)
    with pytest.raises(OSError, match="No space left"):
        export_model(*made, STYLE, "nsync", "kohya", folder)
    assert folder_bytes(tmp_path) == before


def test_without_rights_samples_or_license_the_card_says_so(
    tiny_base: Path, tmp_path: Path
) -> None:
    workspace, params = trained_workspace(tmp_path / "workspace", tiny_base, drawn=False)
    style = params.style(STYLE).model_copy(update={"rights": None, "license": None})
    params = params.model_copy(update={"styles": {STYLE: style}})
    folder = default_folder(workspace, STYLE, "nsync")
    export_model(workspace, params, STYLE, "nsync", "all", folder)
    text = (folder / "README.md").read_text("utf-8")
    assert RIGHTS.splitlines()[0] not in text
    assert "No statement was given on the right to use the training pictures" in text
    assert "No licence was chosen" in text
    assert {"license", "widget"} & card_metadata(folder).keys() == set()
    assert not (folder / "images").exists()


def test_the_command_says_what_it_wrote_and_what_is_missing(
    made: tuple[Workspace, Params], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace, params = made
    settings = params.model_dump(mode="json", exclude_defaults=True)
    del settings["styles"][STYLE]["rights"]
    root = tmp_path / "workspace"
    shutil.copytree(workspace.root, root)
    (root / "params.yaml").write_text(json.dumps(settings))
    export_command(STYLE, "nsync", None, "kohya", None, root, "A. Painter")
    told = capsys.readouterr().out
    folder = root / "exports" / STYLE / "nsync"
    assert f"{folder}: " in told
    assert f"{KOHYA_FILE}: the same in kohya's form: ComfyUI, A1111" in told
    assert LORA_FILE not in told
    with safe_open(folder / KOHYA_FILE, framework="pt") as file:
        assert file.metadata()["modelspec.author"] == "A. Painter"
    assert "styles.ink.rights in params.yaml is where to state it" in told
    assert (folder / KOHYA_FILE).is_file()


@pytest.mark.parametrize("author", ["A\x1b[2J", "\ud800", "A\x00", "A\ufffd"])
def test_an_author_that_is_no_text_is_refused(
    made: tuple[Workspace, Params], tmp_path: Path, author: str
) -> None:
    with pytest.raises(UserError, match=r"^--author holds U\+"):
        export_model(*made, STYLE, "nsync", "kohya", tmp_path / "x", author=author)
    assert not (tmp_path / "x").exists()


def test_what_is_not_trained_is_not_exported(
    made: tuple[Workspace, Params], tmp_path: Path
) -> None:
    workspace, params = made
    with pytest.raises(MissingArtifactError, match="run the training stage of 'nsync' on 'ink'"):
        export_model(Workspace(tmp_path), params, STYLE, "nsync", "all", tmp_path / "out")
    with pytest.raises(ParamsError, match="variant 'nsinc' is not in params"):
        export_model(workspace, params, STYLE, "nsinc", "all", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_an_older_version_trained_is_trained_again(
    made: tuple[Workspace, Params], tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path / "older")
    shutil.copytree(made[0].root, workspace.root)
    file = workspace.model(STYLE, "nsync", 0) / "training.json"
    summary = json.loads(file.read_text())
    del summary["origin"]["architecture"]
    file.write_text(json.dumps(summary))
    with pytest.raises(MissingArtifactError, match=r"by another version .* has no architecture"):
        export_model(workspace, made[1], STYLE, "nsync", "all", tmp_path / "out")


@pytest.mark.parametrize("lora", [None, {"rank": 2, "alpha": 4.0}])
def test_token_vectors_are_exported_and_load_in_diffusers(
    tiny_base: Path, tmp_path: Path, lora: dict[str, Any] | None
) -> None:
    workspace, params = trained_workspace(
        tmp_path / "workspace", tiny_base, drawn=False, lora=lora, textual_inversion={"vectors": 2}
    )
    folder = tmp_path / "out"
    export_model(workspace, params, STYLE, "nsync", "all", folder)
    assert (folder / LORA_FILE).exists() == (lora is not None)
    assert card_metadata(folder)["instance_prompt"] == "in the style of <sks>"
    pipeline = pipeline_of(tiny_base)
    pipeline.load_textual_inversion(folder, weight_name=EMBEDDINGS)
    if lora is not None:
        pipeline.load_lora_weights(folder, weight_name=KOHYA_FILE)
    family = tiny_family(tiny_base)
    load_trained(family, workspace.model(STYLE, "nsync", 0))
    prompts = ["a red house in the style of <sks>", "a tree"]
    theirs = their_pictures(pipeline, family, prompts)
    assert np.abs(our_pictures(family, prompts) - theirs).max() <= 1
    for path in folder.glob("*"):
        assert str(tiny_base.parent).encode() not in path.read_bytes(), path


def test_every_update_rule_is_told_of() -> None:
    assert set(RULES) == set(get_args(UpdateRule))


@pytest.mark.parametrize("name", [".", "/", "..", "workspace"])
def test_a_folder_that_holds_more_is_never_replaced(
    made: tuple[Workspace, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    folder = made[0].root if name == "workspace" else Path(name)
    with pytest.raises(UserError, match=r"takes the place of a whole folder"):
        export_model(*made, STYLE, "nsync", "kohya", folder)
    assert (tmp_path / "in").is_dir()


def test_a_large_folder_of_other_files_is_not_read(
    made: tuple[Workspace, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("mine")
    monkeypatch.setattr("nsync_pipeline.export.folder.file_sha256", None)
    with pytest.raises(UserError, match=r"a\.txt is not as an export wrote it"):
        export_model(*made, STYLE, "nsync", "kohya", tmp_path / "mine")


def test_a_dora_is_exported_as_each_program_reads_it(tiny_base: Path, tmp_path: Path) -> None:
    """Its changes are those of the base with the DoRA merged; nothing says that A1111 reads it."""
    lora = {"rank": 2, "dora": True, "targets": ["to_q", "conv1"]}
    workspace, params = trained_workspace(tmp_path / "workspace", tiny_base, drawn=False, lora=lora)
    model = workspace.model(STYLE, "nsync", 0)
    assert not (model / KOHYA_FILE).exists()  # no program reads its lengths rightly
    exported = export_model(workspace, params, STYLE, "nsync", "all", tmp_path / "out")
    changes = load_file(tmp_path / "out" / KOHYA_FILE)
    family = tiny_family(tiny_base)
    load_trained(family, model)
    for name, layer in lora_layers(family.denoiser):
        before = layer.get_base_layer().weight.clone()
        layer.merge()
        change = layer.get_base_layer().weight - before
        found = changes.pop(f"lora_unet_{name.replace('.', '_')}.diff").float()
        torch.testing.assert_close(found, change, rtol=1e-3, atol=1e-6)
        assert change.abs().max() > 0
    assert changes == {}
    assert "whole changes of the weights" in exported.readers[KOHYA_FILE]
    assert "no other program reads its lengths" in exported.readers[LORA_FILE]
    with safe_open(tmp_path / "out" / KOHYA_FILE, framework="pt") as file:
        assert json.loads(file.metadata()["ss_network_args"]) == {"algo": "full"}
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "ComfyUI, A1111, Forge and LyCORIS add them" in text


@pytest.mark.parametrize("kind", ["lokr", "loha"])
def test_a_lokr_and_a_loha_are_exported_as_each_program_reads_them(
    tiny_base: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In LyCORIS' form; for diffusers a LoKr alone, with code that draws."""
    lora = {"rank": 2, "kind": kind, "targets": ["to_q", "conv1"]}
    workspace, params = trained_workspace(tmp_path / "workspace", tiny_base, drawn=False, lora=lora)
    exported = export_model(workspace, params, STYLE, "nsync", "all", tmp_path / "out")
    called = {"lokr": "LoKr", "loha": "LoHa"}[kind]
    assert f"the {called} in LyCORIS' form" in exported.readers[KOHYA_FILE]
    keys = load_file(tmp_path / "out" / KOHYA_FILE).keys()
    assert all(key.startswith("lora_unet_") for key in keys)
    with safe_open(tmp_path / "out" / KOHYA_FILE, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["ss_network_module"] == "lycoris.kohya"
    assert json.loads(metadata["ss_network_args"])["algo"] == kind
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert f"A {called} of rank 2" in text
    if kind == "loha":
        assert exported.notes == (NO_DIFFUSERS_LOHA,)
        assert not (tmp_path / "out" / LORA_FILE).exists()
        with pytest.raises(UserError, match="diffusers reads no LoHa"):
            export_model(workspace, params, STYLE, "nsync", "diffusers", tmp_path / "other")
        return
    family = tiny_family(tiny_base)
    load_trained(family, workspace.model(STYLE, "nsync", 0))
    pipeline = pipeline_of(tiny_base)
    (line,) = re.findall(
        r"^pipeline\.unet\.load_lora_adapter\(.*?^\)", text, re.DOTALL | re.MULTILINE
    )
    monkeypatch.chdir(tmp_path / "out")
    exec(line, {"pipeline": pipeline})
    theirs = their_pictures(pipeline, family, PROMPTS)
    assert np.abs(our_pictures(family, PROMPTS) - theirs).max() <= 1


def test_a_doras_changes_need_the_base_it_was_trained_on(tiny_base: Path, tmp_path: Path) -> None:
    lora = {"rank": 2, "dora": True, "targets": ["to_q"]}
    workspace, params = trained_workspace(tmp_path / "workspace", tiny_base, drawn=False, lora=lora)
    other = save_tiny_stable_diffusion(tmp_path / "other", seed=5)
    base = params.base_model.model_copy(update={"name": str(other)})
    changed = params.model_copy(update={"base_model": base})
    with pytest.raises(UserError, match="worked out with the base it was trained on"):
        export_model(workspace, changed, STYLE, "nsync", "all", tmp_path / "out")
    export_model(workspace, changed, STYLE, "nsync", "diffusers", tmp_path / "out")


def test_what_a_training_makes_is_read_by_other_programs_too(
    made: tuple[Workspace, Params], exported: Path
) -> None:
    """Beside the file for diffusers: the tensors of an export in kohya's form."""
    own = load_file(made[0].model(STYLE, "nsync", 0) / KOHYA_FILE)
    shared = load_file(exported / KOHYA_FILE)
    assert own.keys() == shared.keys()
    assert all(torch.equal(own[key], shared[key]) for key in own)


def test_a_saved_step_is_exported_without_the_pictures_and_figures_of_another(
    made: tuple[Workspace, Params], tmp_path: Path
) -> None:
    """Those of a step are shown where the samples were drawn with it: as it was chosen."""
    workspace = Workspace(tmp_path / "workspace")
    shutil.copytree(made[0].root, workspace.root)
    place = step_folder(workspace.model(STYLE, "nsync", 0), 50)
    place.mkdir(parents=True)
    header, tensors = read_lora_file(workspace.model(STYLE, "nsync", 0) / LORA_FILE)
    write_lora_file(place / LORA_FILE, {key: 2 * t for key, t in tensors.items()}, header)
    folder = default_folder(workspace, STYLE, "nsync", step=50)
    assert folder.name == "nsync-step50"
    export_model(workspace, made[1], STYLE, "nsync", "all", folder, step=50)
    shared = load_file(folder / LORA_FILE)
    assert all(torch.equal(shared[key], 2 * tensors[key]) for key in tensors)
    assert not (folder / "images").exists()
    assert "| weights saved after step | 50 |" in (folder / "README.md").read_text()

    style = made[1].style(STYLE).model_copy(update={"use_steps": {"nsync-0": ChosenStep(step=50)}})
    chosen = made[1].model_copy(update={"styles": {STYLE: style}})
    samples = workspace.samples(STYLE, "nsync", 0)
    (samples / "made.json").write_text(json.dumps({"settings": {"use_step": {"step": 50}}}))
    export_model(workspace, chosen, STYLE, "nsync", "all", folder)
    assert load_file(folder / LORA_FILE).keys() == shared.keys()
    assert torch.equal(*(next(iter(f.values())) for f in (shared, load_file(folder / LORA_FILE))))
    assert (folder / "images" / "sample_1.jpg").is_file()
