"""Evaluation and report on a small workspace as the earlier stages leave it."""

import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageColor

from nsync_pipeline.blind.choices import take_choices
from nsync_pipeline.blind.page import FORMAT, blind_page
from nsync_pipeline.blind.questions import draw_questions, picture_digests
from nsync_pipeline.contrast.config import UpdateRule
from nsync_pipeline.errors import ChoicesError, MissingArtifactError
from nsync_pipeline.evaluation import stage as evaluation
from nsync_pipeline.evaluation.config import EvaluationSettings
from nsync_pipeline.families.config import public_name
from nsync_pipeline.params import Params
from nsync_pipeline.pictures.manifest import CAPTIONS, SAMPLES, read_manifest, write_manifest
from nsync_pipeline.pictures.style_pictures import read_style_pictures
from nsync_pipeline.report import stage as report
from nsync_pipeline.report.choices import choices_section
from nsync_pipeline.report.config import ReportSettings
from nsync_pipeline.report.plots import COLOURS
from nsync_pipeline.report.words import RULES
from nsync_pipeline.stage import StageResult
from nsync_pipeline.workspace import (
    BASE,
    FIGURES_FOLDER,
    MANIFEST_FILE,
    PLOTS_FOLDER,
    STRIP_FILE,
    Workspace,
)
from tests.support.contexts import stage_context
from tests.support.style_workspace import STYLE, VARIANTS, build_style_workspace, style_params

TEST_PICTURES = 8


def evaluate(workspace: Workspace, params: Params | None = None) -> StageResult:
    params = params or style_params()
    return evaluation.run(stage_context(EvaluationSettings, workspace, params, STYLE))


def write_report(workspace: Workspace, params: Params | None = None) -> StageResult:
    return report.run(stage_context(ReportSettings, workspace, params or style_params(), STYLE))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, StageResult, StageResult]:
    """A workspace with its evaluation and report, and what the stages said."""
    workspace = build_style_workspace(tmp_path_factory.mktemp("made"), test=TEST_PICTURES)
    return workspace, evaluate(workspace), write_report(workspace)


@pytest.fixture
def workspace(made: tuple[Workspace, StageResult, StageResult], tmp_path: Path) -> Workspace:
    """A copy a test may spoil."""
    return Workspace(Path(shutil.copytree(made[0].root, tmp_path / "copy")))


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def page(workspace: Workspace) -> str:
    return (workspace.report(STYLE) / "report.html").read_text("utf-8")


class Page(HTMLParser):
    """Collects the images, open tags and addresses of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.addresses += [str(found[key]) for key in ("src", "href", "srcset") if key in found]
        if tag == "img":
            self.images.append(found)
        if tag not in {"img", "meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Elements that are closed at once, as in SVG."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_metrics_are_plain_numbers_for_every_set(
    made: tuple[Workspace, StageResult, StageResult],
) -> None:
    metrics = json.loads((made[0].evaluation(STYLE) / "metrics.json").read_text())
    assert set(metrics) == {"base", "ceiling", "floor", "variants", "trainings"}
    assert set(metrics["variants"]) == set(VARIANTS)
    for name in VARIANTS:
        figures = metrics["variants"][name]
        assert metrics["trainings"][name] == {"0": figures}  # the mean of one is that one
        assert {"style_margin", "cmmd", "prompt_fidelity", "copy_rate", "diversity"} <= set(figures)
        assert all(isinstance(value, float) for value in figures.values())


def test_the_style_is_recognised_in_the_pictures_that_have_it(
    made: tuple[Workspace, StageResult, StageResult],
) -> None:
    """ "nsync" drew all of its pictures in the style, "lora" half of them, the base none."""
    metrics = json.loads((made[0].evaluation(STYLE) / "metrics.json").read_text())
    recognised = {name: m["style_recognised"] for name, m in metrics["variants"].items()}
    assert recognised["nsync"] > recognised["lora"] > metrics["base"]["style_recognised"]
    margins = {name: m["style_margin"] for name, m in metrics["variants"].items()}
    assert margins["nsync"] > margins["lora"] > metrics["base"]["style_margin"]


def test_a_row_a_generated_picture_that_averages_to_the_figures(
    made: tuple[Workspace, StageResult, StageResult],
) -> None:
    folder = made[0].evaluation(STYLE)
    rows = pq.read_table(folder / "pictures.parquet").to_pylist()
    assert len(rows) == TEST_PICTURES * (len(VARIANTS) + 1)
    metrics = json.loads((folder / "metrics.json").read_text())
    nsync = [row["style_margin"] for row in rows if row["variant"] == "nsync"]
    mean = sum(nsync) / len(nsync)
    assert mean == pytest.approx(metrics["variants"]["nsync"]["style_margin"], rel=1e-4)


def test_a_small_file_a_metric_has_a_number_a_variant(
    made: tuple[Workspace, StageResult, StageResult],
) -> None:
    metrics = json.loads((made[0].evaluation(STYLE) / "metrics.json").read_text())
    files = {file.stem: file for file in (made[0].evaluation(STYLE) / FIGURES_FOLDER).iterdir()}
    assert {"style_margin", "cmmd", "prompt_fidelity", "content_recognised"} <= set(files)
    for name, file in files.items():
        told = json.loads(file.read_text())
        assert list(told) == [BASE, *VARIANTS, "real"]
        assert told["nsync"] == metrics["variants"]["nsync"][name]


def test_plots_are_pictures_in_the_colours_of_the_variants(
    made: tuple[Workspace, StageResult, StageResult],
) -> None:
    files = sorted((made[0].report(STYLE) / PLOTS_FOLDER).iterdir())
    assert [file.name for file in files] == [
        "loss_positive.png", "norm_refined.png", "style_and_content.png", "style_margin.png",
    ]  # fmt: skip
    for file in files:
        with Image.open(file) as picture:
            found = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or ()}
        for colour in COLOURS[: len(VARIANTS)]:
            assert ImageColor.getrgb(colour) in found, file


def test_stages_say_their_figures_and_verdict(
    made: tuple[Workspace, StageResult, StageResult],
) -> None:
    _, evaluated, reported = made
    assert evaluated.figures["nsync against lora"] in {
        "better", "worse", "trade-off", "as good", "inconclusive",
    }  # fmt: skip
    assert isinstance(evaluated.figures["nsync style_margin"], float)
    assert "checkpoint" in str(reported.figures["verdict"])
    (preview,) = reported.previews
    assert preview.jpeg.startswith(b"\xff\xd8")
    assert len(preview.jpeg) < 100_000


def test_few_pictures_are_warned_about(made: tuple[Workspace, StageResult, StageResult]) -> None:
    record = json.loads((made[0].evaluation(STYLE) / "evaluation.json").read_text())
    assert any(w.startswith("Only 8 held-out captions") for w in record["warnings"])
    assert "Only 8 held-out captions" in page(made[0])


def test_the_same_inputs_give_the_same_bytes(
    made: tuple[Workspace, StageResult, StageResult], workspace: Workspace
) -> None:
    """Another folder, and a second run over what the first one left."""
    evaluate(workspace)
    write_report(workspace)
    for folder in ("evaluation", "reports"):
        assert tree(workspace.root / folder) == tree(made[0].root / folder)


def test_report_is_whole_and_needs_nothing_besides_itself(
    made: tuple[Workspace, StageResult, StageResult],
) -> None:
    html = page(made[0])
    parsed = Page(html)
    assert parsed.open == []
    assert all(address.startswith("data:image/") for address in parsed.addresses)
    assert "@import" not in html
    assert not re.search(r"url\((?!data:)", html)
    assert "http" not in re.sub(r'xmlns="[^"]*"', "", html)


def test_every_picture_of_the_report_says_what_it_shows(
    made: tuple[Workspace, StageResult, StageResult],
) -> None:
    images = Page(page(made[0])).images
    rows, ribbon, pairs, copies = 3, 10, 8, 8
    assert len(images) == rows * (2 + len(VARIANTS)) + ribbon + 2 * (pairs + copies)
    assert all(image["alt"] for image in images)
    assert all(image["class"] == "pixelated" for image in images)


def test_report_says_nothing_of_this_machine(
    made: tuple[Workspace, StageResult, StageResult],
) -> None:
    html = page(made[0])
    assert str(made[0].root) not in html
    assert str(Path.home()) not in html
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b", html)


def test_report_names_what_it_is_made_of(made: tuple[Workspace, StageResult, StageResult]) -> None:
    workspace, html = made[0], page(made[0])
    for path in (
        workspace.model(STYLE, "nsync", 0) / "pytorch_lora_weights.safetensors",
        workspace.style_set(STYLE) / MANIFEST_FILE,
        workspace.evaluation(STYLE) / "evaluation.json",
    ):
        assert hashlib.sha256(path.read_bytes()).hexdigest()[:16] in html
    assert "sha256:0123456789abcdef" in html
    assert f"{TEST_PICTURES + 10}, 0 by a model, 0 cut to fit the text encoder" in html
    assert "This compares checkpoints, not methods" in html


def test_a_watched_training_is_reported_with_its_warnings_and_looks(workspace: Workspace) -> None:
    folder = workspace.model(STYLE, "nsync", 0)
    summary = json.loads((folder / "training.json").read_text("utf-8"))
    look = {"standard_error": 0.01, "pictures": 2}
    summary |= {
        "warnings": [{"kind": "collapse", "step": 12, "text": "95% of <it> was removed."}],
        "looks": {"10": {"style_margin": 0.25, **look}, "30": {"style_margin": 0.24, **look}},
        "best_look": {
            "step": 10, "lead_over_last": 0.01, "standard_error": 0.02, "told_apart": False,
        },
    }  # fmt: skip
    (folder / "training.json").write_text(json.dumps(summary))
    Image.new("RGB", (300, 100), "red").save(folder / STRIP_FILE)
    write_report(workspace)
    html = page(workspace)
    assert "<strong>nsync</strong>: from step 12 on, 95% of &lt;it&gt; was removed." in html
    assert (
        "The highest style margin, +0.250, is at step 10; it leads the last by 0.010 (standard "
        "error 0.020), which so few pictures cannot tell from chance."
    ) in html
    assert "Style margin of the looks" in html
    parsed = Page(html)
    assert parsed.open == []
    (strip,) = [image for image in parsed.images if "a column a look" in str(image["alt"])]
    assert (strip["width"], strip["height"]) == ("300", "100")


def choose_first(workspace: Workspace, params: Params, between: tuple[str, str]) -> Path:
    """Somebody sees the first of two as the better one, but for one pair of which it is open."""
    page_ = blind_page(workspace, STYLE, *between, 40, 0)
    pictures = read_style_pictures(workspace, STYLE, params.training_runs())
    digests = picture_digests(pictures)
    asked = draw_questions(pictures, digests, STYLE, *between, 40, 0).asked
    choices = {question.id: "left" if question.a_is_left else "right" for question in asked}
    choices[asked[0].id] = "neither"
    file = workspace.root / "saved.json"
    file.write_text(json.dumps({
        "format": FORMAT, "style": STYLE, "page": page_.page_id, "pair": page_.pair_id,
        "asked": 40, "judge": "Ada Lovelace", "sitting": "0123456789abcdef", "saved": 1,
        "choices": choices,
    }))  # fmt: skip
    return take_choices(workspace, file, [STYLE], list(params.variants), (0,)).kept


def test_report_shows_what_people_chose(workspace: Workspace) -> None:
    params = style_params()
    for between in (("nsync", BASE), ("nsync", "lora")):
        choose_first(workspace, params, between)
    said = write_report(workspace, params)
    html = page(workspace)
    assert Page(html).open == []
    # Seven of eight won, one open: 7.5 of 8, which is 94 %.
    titles = re.findall(r"<h3>(.*?) <em>nsync preferred</em></h3>", html)
    assert titles == ["nsync against lora", "nsync against base"]
    assert html.count("People find nsync nearer to the style: they chose it in 94\xa0% (") == 2
    assert html.count("8 choices by one person, about 8 captions.") == 2
    assert 'aria-label="nsync won 7, cannot tell 1, lora won 0"' in html
    assert "nsync blind make" not in html
    assert "Lovelace" not in html
    assert said.figures["people chose nsync over lora"] == 0.938
    assert said.figures["people chose nsync over base"] == 0.938


def test_report_says_which_choices_it_does_not_count(workspace: Workspace) -> None:
    params = style_params()
    choose_first(workspace, params, ("nsync", "lora"))
    picture = next((workspace.samples(STYLE, "nsync", 0) / "images").glob("*.png"))
    with Image.open(picture) as image:
        image.rotate(90).save(picture)
    evaluate(workspace, params)
    write_report(workspace, params)
    html = page(workspace)
    assert "What people chose" in html
    assert "One file of choices is not counted here: the pictures were drawn again since" in html
    assert "nsync blind make woodblock --between nsync,lora" in html
    assert "nsync preferred" not in html


def test_report_without_choices_says_how_to_ask_people(
    made: tuple[Workspace, StageResult, StageResult],
) -> None:
    html = page(made[0])
    assert html.count("nsync blind make woodblock --between nsync,lora") == 1
    end = html[html.index("What to do next") :]
    assert "nsync blind make" in end
    assert "nsync export woodblock --variant " in end
    assert "points: [{lora_strength: 1.5}, {form: difference}]" in end
    assert "How strongly to draw" not in html
    assert f"models/{STYLE}/nsync/0" in end
    assert "in the style of sks" in end
    assert "What people chose" not in html


def test_people_are_asked_about_variants_that_blind_pages_know() -> None:
    one = choices_section(STYLE, ["nsync"], (), (), asks=True)
    assert one.how_to_ask == "nsync blind make woodblock --between nsync,base"
    assert choices_section(STYLE, ["lora", "nsync"], (), (), asks=False).how_to_ask == ""


def test_spoiled_choices_stop_the_report_rather_than_being_left_out(workspace: Workspace) -> None:
    kept = choose_first(workspace, style_params(), ("nsync", "lora"))
    kept.write_text("<<<<<<< HEAD\n" + kept.read_text())
    with pytest.raises(ChoicesError, match=kept.name):
        write_report(workspace)


def test_a_drawn_style_needs_no_note_on_the_base(
    made: tuple[Workspace, StageResult, StageResult],
) -> None:
    assert "Read this first" not in page(made[0])


def test_the_base_asked_by_name_is_what_training_has_to_beat(tmp_path: Path) -> None:
    workspace = build_style_workspace(tmp_path, test=TEST_PICTURES, by_name=True)
    plain = style_params()
    evaluate(workspace, plain)
    folder = workspace.evaluation(STYLE)
    before = json.loads((folder / "metrics.json").read_text())
    assert "base_by_name" not in before
    shutil.rmtree(folder)
    style = plain.style(STYLE).model_copy(update={"known_as": "Hiro & <Sons>"})
    named = plain.model_copy(update={"styles": {STYLE: style}})
    evaluate(workspace, named)
    after = json.loads((folder / "metrics.json").read_text())
    by_name = after.pop("base_by_name")
    assert after == before  # a further set changes no other's figures
    assert set(by_name) == set(after["base"])
    assert by_name["style_margin"] != after["base"]["style_margin"]
    shown = json.loads((folder / FIGURES_FOLDER / "style_margin.json").read_text())
    assert list(shown) == ["base", "base_by_name", *VARIANTS, "real"]
    found = json.loads((folder / "evaluation.json").read_text())["by_name"]
    assert found["name"] == "Hiro & <Sons>"
    assert [(c["a"], c["b"]) for c in found["comparisons"]] == [
        (name, "base_by_name") for name in VARIANTS
    ]
    write_report(workspace, named)
    html = page(workspace)
    assert "Base, by name" in html
    assert "Hiro &amp; &lt;Sons&gt;" in html
    assert "<Sons>" not in html


def test_a_base_not_yet_asked_by_name_is_said(workspace: Workspace) -> None:
    params = style_params()
    style = params.style(STYLE).model_copy(update={"known_as": "Hiroshige"})
    with pytest.raises(MissingArtifactError, match="base_by_name"):
        evaluate(workspace, params.model_copy(update={"styles": {STYLE: style}}))


def test_real_pictures_on_the_embedded_base_are_reported_honestly(workspace: Workspace) -> None:
    evaluate(workspace, style_params(source="folder"))
    said = write_report(workspace, style_params(source="folder"))
    html = page(workspace)
    assert str(said.figures["verdict"]).startswith("This base model cannot show it")
    assert set(said.figures) == {"verdict"}  # no share of the way
    assert "of the way" not in html
    assert '<div class="verdict ' not in html
    assert "Read this first" in html
    assert "It draws 128 pixels a side" in html
    assert "it has never seen a real picture" in html
    metrics = json.loads((workspace.evaluation(STYLE) / "metrics.json").read_text())
    assert "style_recognised" not in metrics["base"]


def test_captions_are_escaped(workspace: Workspace) -> None:
    for variant in (BASE, *VARIANTS):
        path = workspace.samples(STYLE, variant, 0) / MANIFEST_FILE
        rows = read_manifest(path, SAMPLES)
        caption = 'a <script>alert("x")</script> & more'
        write_manifest(path, [row | {"caption": caption} for row in rows], SAMPLES)
    evaluate(workspace)
    write_report(workspace)
    assert "<script" not in page(workspace)
    assert "&lt;script&gt;" in page(workspace)


def test_pictures_of_other_captions_are_not_compared(workspace: Workspace) -> None:
    path = workspace.samples(STYLE, "nsync", 0) / MANIFEST_FILE
    rows = read_manifest(path, SAMPLES)
    write_manifest(path, [row | {"seed": row["seed"] + 1} for row in rows], SAMPLES)
    with pytest.raises(MissingArtifactError, match="'nsync-0' are not of the same captions, seeds"):
        evaluate(workspace)


def test_a_missing_stage_is_named(workspace: Workspace) -> None:
    shutil.rmtree(workspace.samples(STYLE, "lora", 0))
    with pytest.raises(MissingArtifactError, match="samples/woodblock/lora"):
        evaluate(workspace)


def test_a_picture_without_caption_is_named(workspace: Workspace) -> None:
    path = workspace.captions(STYLE) / MANIFEST_FILE
    write_manifest(path, read_manifest(path, CAPTIONS)[1:], CAPTIONS)
    with pytest.raises(MissingArtifactError, match="run the captions stage again"):
        evaluate(workspace)


def test_a_truncated_picture_is_named(workspace: Workspace) -> None:
    picture = next((workspace.samples(STYLE, "nsync", 0) / "images").iterdir())
    picture.write_bytes(picture.read_bytes()[:200])
    with pytest.raises(MissingArtifactError, match=picture.name):
        evaluate(workspace)


def test_report_without_an_evaluation_says_so(workspace: Workspace) -> None:
    shutil.rmtree(workspace.evaluation(STYLE))
    with pytest.raises(MissingArtifactError, match="run the evaluation stage"):
        write_report(workspace)


def test_one_test_picture_is_enough_to_run(tmp_path: Path) -> None:
    """What cannot be computed is left out; the rest, and the report, are there."""
    workspace = build_style_workspace(tmp_path, test=1, train=2)
    evaluate(workspace)
    write_report(workspace)
    metrics = json.loads((workspace.evaluation(STYLE) / "metrics.json").read_text())
    assert "cmmd" not in metrics["base"]
    assert "style_margin" in metrics["base"]
    assert "too few captions" in page(workspace)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("/home/a/model", "model"), ("./models/x", "x"),
     ("org/model", "org/model"), ("sketchbook", "sketchbook")],
)  # fmt: skip
def test_a_models_folder_is_not_shown(name: str, shown: str) -> None:
    assert public_name(name) == shown


def test_every_update_rule_has_its_words() -> None:
    assert set(RULES) == set(get_args(UpdateRule))
