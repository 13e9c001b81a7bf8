"""The log a stage is given: names, cost, and that nothing it meets reaches the stage."""

import hashlib
import json
import logging
import resource
import time
from pathlib import Path

import pytest

from nsync_pipeline.files import dvc_digest
from nsync_pipeline.stage import RunLog
from nsync_pipeline.tracking.placement import Placement
from nsync_pipeline.tracking.scores import scores_table, training_scores, variant_scores
from nsync_pipeline.tracking.settings import flat
from nsync_pipeline.tracking.spool import RunHeader, SpoolWriter, read_events
from nsync_pipeline.tracking.spooled_log import SpooledLog
from nsync_pipeline.workspace import TrainingRun

HEADER = RunHeader("", "nsync/ink", "nsync · ink", {"nsync.run": "a"}, {}, 1, True)

OWN = Placement("nsync/ink", "nsync · ink", picture="training", results=True)
ADDED = Placement("nsync/ink", "nsync · ink", {"nsync.artefact": "1"}, "generation/", "samples")


@pytest.fixture
def writer(tmp_path: Path) -> SpoolWriter:
    return SpoolWriter(tmp_path / "spool" / f"{1:020d}.training.ink.nsync.a.jsonl", HEADER)


def events(writer: SpoolWriter) -> list[dict[str, object]]:
    return [dict(event) for _, event in read_events(writer.path)]


def test_a_history_row_is_grouped_into_charts(writer: SpoolWriter) -> None:
    log: RunLog = SpooledLog(writer, OWN)
    row = {
        "loss_positive": 0.5, "norm_negative": 2.0, "cosine_anchor": 0.25, "share_removed": 0.125,
        "learning_rate": 0.001, "loss_scale": 4096.0, "look_style_margin": 0.5,
        "system/steps_a_second": 2.0,
    }  # fmt: skip
    log.metrics(row, step=7)

    (event,) = events(writer)
    assert event["step"] == 7
    assert event["values"] == {
        "loss/positive": 0.5, "gradient/norm_negative": 2.0, "gradient/cosine_anchor": 0.25,
        "gradient/share_removed": 0.125, "optimizer/learning_rate": 0.001,
        "optimizer/loss_scale": 4096.0, "look/style_margin": 0.5, "system/steps_a_second": 2.0,
    }  # fmt: skip


def test_another_stages_own_settings_become_tags_of_the_run(writer: SpoolWriter) -> None:
    SpooledLog(writer, ADDED).params({"seed": 0, "generation.sampler.steps": 20})

    (event,) = events(writer)
    assert (event["kind"], event["values"]) == ("tags", {"generation.sampler.steps": "20"})


def test_figures_logged_before_an_interruption_are_not_logged_again(writer: SpoolWriter) -> None:
    log = SpooledLog(writer, OWN, seen={("loss/positive", 3): 0.5, ("loss/negative", 3): 0.25})
    log.metrics({"loss_positive": 0.5, "loss_negative": 0.75}, step=3)
    log.metrics({"loss_positive": 0.5}, step=4)

    assert [event["values"] for event in events(writer)] == [
        {"loss/negative": 0.75},
        {"loss/positive": 0.5},
    ]


def test_a_file_is_kept_as_it_was_when_it_was_logged(writer: SpoolWriter, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text("first")
    SpooledLog(writer, OWN).artifact(report, "pages")
    report.write_text("second")

    (event,) = events(writer)
    assert (writer.path.parent / str(event["file"])).read_text() == "first"
    assert event["folder"] == "pages"


def test_results_are_figures_texts_and_pictures(writer: SpoolWriter) -> None:
    SpooledLog(writer, OWN).results({"held_out_loss": 0.5, "verdict": "better"}, [b"jpeg"])

    texts, figures, picture = events(writer)
    assert texts["values"] == {"verdict": "better"}
    assert figures["values"] == {"result/held_out_loss": 0.5}
    assert (writer.path.parent / str(picture["file"])).read_bytes() == b"jpeg"
    assert str(picture["file"]).endswith("/training.jpg")
    assert picture["folder"] == ""


def test_results_of_another_stage_leave_only_pictures_on_the_run(writer: SpoolWriter) -> None:
    SpooledLog(writer, ADDED).results({"pictures": 8, "words": "sks"}, [b"jpeg", b"more"])

    kept = [(str(event["folder"]), str(event["file"]).split("/")[-1]) for event in events(writer)]
    assert kept == [("", "samples.jpg"), ("", "samples_2.jpg")]


def test_a_full_disk_costs_the_record_and_nothing_else(
    writer: SpoolWriter, caplog: pytest.LogCaptureFixture
) -> None:
    log = SpooledLog(writer, OWN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (writer.path.stat().st_size, limits[1]))
    try:
        with caplog.at_level(logging.WARNING):
            log.metrics({"loss_positive": 0.5}, step=1)
            log.params({"seed": 0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert events(writer) == []
    assert log.lost == 2
    assert len(caplog.records) == 1  # told once, not every step


def test_a_missing_file_does_not_reach_the_stage(writer: SpoolWriter, tmp_path: Path) -> None:
    log = SpooledLog(writer, OWN)
    log.artifact(tmp_path / "nothing.html")

    assert log.lost == 1


def test_a_log_without_a_writer_keeps_nothing(tmp_path: Path) -> None:
    log: RunLog = SpooledLog(None, OWN)
    log.metrics({"loss": 1.0}, step=1)
    log.artifact(tmp_path / "nothing.html")

    assert not list(tmp_path.iterdir())


def test_a_step_of_training_is_recorded_in_under_a_hundredth_of_its_time(
    writer: SpoolWriter,
) -> None:
    log = SpooledLog(writer, OWN)
    row = {f"loss_{i}": 1 / 3 for i in range(12)}
    began = time.perf_counter()
    for step in range(120):
        log.metrics(row, step)
    cost = (time.perf_counter() - began) / 120  # seconds a step

    assert cost < 0.001  # a step of the embedded base takes more than 0.1 s


def test_a_folder_is_named_as_dvc_names_it(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "b.png").write_bytes(b"b")
    (tmp_path / "a.txt").write_bytes(b"a")
    listing = [
        {"md5": hashlib.md5(b"a").hexdigest(), "relpath": "a.txt"},
        {"md5": hashlib.md5(b"b").hexdigest(), "relpath": "images/b.png"},
    ]
    by_hand = hashlib.md5(json.dumps(listing).encode()).hexdigest() + ".dir"

    assert dvc_digest(tmp_path) == by_hand
    assert len(by_hand) == 36  # the longest digest MLflow takes
    assert dvc_digest(tmp_path / "a.txt") == hashlib.md5(b"a").hexdigest()


def test_dvc_itself_gives_a_folder_the_same_name(tmp_path: Path) -> None:
    tree = pytest.importorskip("dvc_data.hashfile.tree")
    hashes = pytest.importorskip("dvc_data.hashfile.hash_info")
    (tmp_path / "images").mkdir()
    names = ["images/é.png", "images/a.png", "images-2.txt"]
    dvc_tree = tree.Tree()
    for name in names:
        (tmp_path / name).write_text(name)
        md5 = hashlib.md5(name.encode()).hexdigest()
        dvc_tree.add(tuple(name.split("/")), None, hashes.HashInfo("md5", md5))
    dvc_tree.digest()

    assert dvc_digest(tmp_path) == dvc_tree.oid


def test_nested_settings_become_dotted_names() -> None:
    settings = {"seed": 0, "training": {"lora": {"rank": 8, "targets": None}, "words": ("a", "b")}}

    assert flat(settings) == {
        "seed": 0, "training.lora.rank": 8, "training.lora.targets": None, "training.words": "a, b",
    }  # fmt: skip


def test_scores_are_of_the_variants_and_the_base(tmp_path: Path) -> None:
    metrics = {
        "base": {"cmmd": 3.0}, "floor": {"cmmd": 0.5}, "variants": {"nsync": {"cmmd": 1.0}},
    }  # fmt: skip
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))

    assert variant_scores(tmp_path / "metrics.json") == {
        "base": {"cmmd": 3.0}, "nsync": {"cmmd": 1.0},
    }  # fmt: skip


def test_scores_of_trainings_are_by_variant_and_seed(tmp_path: Path) -> None:
    metrics = {"base": {"cmmd": 3.0}, "trainings": {"nsync": {"0": {"cmmd": 1}, "7": {"cmmd": 2}}}}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))

    assert training_scores(tmp_path / "metrics.json") == {
        None: {"cmmd": 3.0},
        TrainingRun("nsync", 0): {"cmmd": 1.0},
        TrainingRun("nsync", 7): {"cmmd": 2.0},
    }


def test_scores_make_a_table_of_metrics_by_variants() -> None:
    table = scores_table({"base": {"cmmd": 3.0}, "nsync": {"cmmd": 1.23456, "style_margin": 0.5}})

    assert table.splitlines() == [
        "|  | base | nsync |",
        "| --- | --- | --- |",
        "| cmmd | 3 | 1.235 |",
        "| style_margin |  | 0.5 |",
    ]
