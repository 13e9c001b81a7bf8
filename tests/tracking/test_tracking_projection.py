"""What MLflow gets of each artefact: read from folders, without a server."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsync_pipeline.errors import UserError
from nsync_pipeline.tracking.destination import (
    artifact_location,
    masked,
    resolved_uri,
    usable_uri,
)
from nsync_pipeline.tracking.projection import (
    ABLATION,
    ARTEFACT,
    MADE_OF,
    NOTE,
    Run,
    chart,
    flat,
    scores_table,
    sources,
)
from nsync_pipeline.tracking.sender import Outcome, deliver, recorded, send
from nsync_pipeline.training.history import COLUMNS
from nsync_pipeline.workspace import BASE, Workspace
from tests.support.artefacts import draw, evaluate, history_csv, train, training_plan, whole_style


class FakeServer:
    """Keeps what it is told."""

    def __init__(self, fails: tuple[str, ...] = ()) -> None:
        self.parts: list[Run] = []
        self.fails = fails
        self.asked = 0

    def tell(self, part: Run) -> int:
        self.asked += 1
        if part.name in self.fails:
            raise ConnectionError("http://me:secret@host:5000 does not answer")
        if not part.looks:
            self.parts.append(part)
        return 1


@pytest.fixture(autouse=True)
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSYNC_TRACKING", "later")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def told(workspace: Workspace, of: str, with_looks: bool = False) -> list[Run]:
    """What the source whose folder this is says; without the runs of looks, where not asked for."""
    (source,) = [one for one in sources(workspace) if one.folder == workspace.root / of]
    return [run for run in source.runs() if with_looks or not run.looks]


def values(part: Run) -> dict[tuple[str, int], float]:
    return dict(part.metrics)


def test_a_training_has_its_settings_as_they_apply_as_flat_params(workspace: Workspace) -> None:
    train(workspace, "nsync", seed=2)
    (part,) = told(workspace, "models/ink/nsync/2")

    assert part.params == {
        "seed": "0", "base_model.name": "sketchbook", "base_model.revision": "null",
        "training.update_rule": "orthogonal", "training.steps": "3",
        "training.max_gradient_norm": "1.0", "training.lora.rank": "8",
        "training.lora.targets": "null", "training.watch.every": "2", "variant": "nsync",
        "training_seed": "2",
    }  # fmt: skip
    assert (part.experiment, part.name, part.status) == ("nsync/ink", "nsync-2 · ink", "FINISHED")


def test_a_step_of_a_training_is_figures_in_chart_groups(workspace: Workspace) -> None:
    train(workspace, "nsync", steps=4)
    found = values(told(workspace, "models/ink/nsync/0")[0])

    assert {name: value for (name, step), value in found.items() if step == 4} == {
        "loss/positive": 0.25, "loss/negative": 0.5, "gradient/norm_positive": 3.0,
        "gradient/norm_refined": 2.0, "gradient/share_removed": 0.25,
        "optimizer/learning_rate": 0.001,
        "optimizer/clip_scale": 0.5,  # max_gradient_norm 1 over norm_refined 2
        "loss/held_out": 0.5, "look/style_margin": 0.125, "look/style_margin_error": 0.01,
    }  # fmt: skip
    assert found["loss/held_out", 0] == 0.75
    assert found["result/held_out_loss", 0] == 0.5
    assert len(found) == 4 * 7 + 2 + 2 + 2


def test_every_column_of_the_history_has_a_name_in_mlflow() -> None:
    assert [column for column in COLUMNS if chart(column) is None] == ["step"]


def test_a_training_is_found_by_its_content_and_named_by_tags(workspace: Workspace) -> None:
    made = train(workspace, "nsync", weights="weights")
    (part,) = told(workspace, "models/ink/nsync/0")

    assert part.match == {ARTEFACT: made["content"], MADE_OF: part.match[MADE_OF]}
    wanted = {
        "style": "ink", "variant": "nsync", "stage": "training", "rule": "orthogonal",
        "base": "sketchbook", "training_seed": "0", "warnings": made["figures"]["warnings"],
    }  # fmt: skip
    assert wanted.items() <= part.tags.items()
    assert "rule `orthogonal`" in part.tags[NOTE]


def test_a_training_names_the_sets_it_read_and_only_those(workspace: Workspace) -> None:
    train(workspace, "nsync")
    train(workspace, "lora")
    of = {name: told(workspace, f"models/ink/{name}/0")[0].datasets for name in ("nsync", "lora")}

    assert {path: context for path, (_, context) in of["nsync"].items()} == {
        "data/ink/style_set": "training", "data/ink/captions": "captions",
        "data/ink/negative_set": "negatives",
    }  # fmt: skip
    assert of["nsync"].keys() - of["lora"].keys() == {"data/ink/negative_set"}


def test_pictures_of_all_stages_lie_beside_each_other_on_a_run(workspace: Workspace) -> None:
    whole_style(workspace)
    files: dict[str, set[str]] = {}
    for source in sources(workspace):
        for part in source.runs():
            files.setdefault(part.name, set()).update(part.files)

    assert files == {
        "lora-0 · ink": {"training.jpg", "training_2.jpg", "samples.jpg"},
        "nsync-0 · ink": {"training.jpg", "training_2.jpg", "samples.jpg"},
        "base · ink": {"samples.jpg"},
        "evaluation · ink": {
            "evaluation.jpg", "metrics.json", "evaluation.json", "report.html", "report.jpg",
        },
    }  # fmt: skip
    (_, looks) = told(workspace, "models/ink/nsync/0", with_looks=True)
    assert looks.experiment == "nsync/ink/looks"
    assert {step: path.name for step, path in looks.looks.items()} == {3: "00000003.jpg"}
    assert looks.params == {"variant": "nsync", "training_seed": "0"}  # the page shows all of them
    assert set(values(looks)) == {("look/style_margin", 3), ("look/style_margin_error", 3)}


def test_scores_are_on_the_run_of_each_training_and_of_the_base(workspace: Workspace) -> None:
    whole_style(workspace)
    own, *added = told(workspace, "evaluation/ink")
    (trained,) = told(workspace, "models/ink/nsync/0")

    assert {part.name: values(part) for part in added} == {
        "base · ink": {("eval/style_margin", 0): 0.0},
        "lora-0 · ink": {("eval/style_margin", 0): 0.25},
        "nsync-0 · ink": {("eval/style_margin", 0): 0.25},
    }
    assert {part.status for part in added} == {None}
    assert added[-1].match == trained.match
    assert values(own) == {}  # each would be a chart of a single bar
    assert "| style_margin | 0 | 0.25 | 0.25 |" in own.tags[NOTE]
    assert own.tags["base"] == "sketchbook"


def test_an_old_evaluation_says_nothing_of_a_training_made_since(workspace: Workspace) -> None:
    whole_style(workspace)
    train(workspace, "nsync", weights="others")

    names = [part.name for part in told(workspace, "evaluation/ink")]
    assert names == ["evaluation · ink", "base · ink", "lora-0 · ink"]
    assert told(workspace, "samples/ink/nsync/0") == []


def test_what_is_drawn_and_reported_adds_figures_and_settings(workspace: Workspace) -> None:
    whole_style(workspace)
    (drawn,), (page,) = told(workspace, "samples/ink/base"), told(workspace, "reports/ink")

    assert values(drawn) == {("generation/pictures", 0): 8.0}
    assert drawn.match == {ARTEFACT: "base:sketchbook"}
    assert drawn.tags["generation.sampler.steps"] == "20"
    assert values(page) == {("report/nsync, share of the way", 0): 0.5}
    assert page.match == told(workspace, "evaluation/ink")[0].match
    assert NOTE not in page.tags


def test_an_ablation_is_an_experiment_whose_last_comparison_has_a_tag(workspace: Workspace) -> None:
    own = replace(workspace, of_ablation=True)
    draw(own, BASE)
    train(own, "lora")
    draw(own, "lora")
    made = evaluate(own, [("lora", 0)])
    parts = told(workspace, "ablations/ink/evaluation")

    assert {part.experiment for part in parts} == {"nsync/ink/ablation"}
    assert [part.name for part in parts] == ["evaluation · ink", "base · ink", "lora-0 · ink"]
    assert {part.tags[ABLATION] for part in parts} == {made["content"][:8]}
    assert told(workspace, "ablations/ink/models/lora/0")[0].experiment == "nsync/ink/ablation"


def test_a_run_under_way_shows_what_it_has(workspace: Workspace) -> None:
    folder = workspace.scratch("live", "ink", "nsync", "0")
    with recorded(workspace, training_plan("nsync"), {"dagster.run_id": "d1"}):
        (folder / "history.csv").write_text(history_csv(4))
        (folder / "held_out.csv").write_text("step,loss\n0,0.75\n")
        (folder / "looks.csv").write_text("step,style_margin,standard_error\n2,0.5,0.25\n")
        machine = "step,steps_a_second,peak_memory_gib\n2,2.0,1.5\n4,1.0,1.5\n"
        (folder / "system.csv").write_text(machine)
        (part,) = told(workspace, ".nsync/scratch/live/ink/nsync/0")

    assert (part.status, part.name) == ("RUNNING", "nsync-0 · ink")
    assert part.tags["dagster.run_id"] == "d1"
    found = values(part)
    assert found["loss/held_out", 0] == 0.75
    assert found["look/style_margin_error", 2] == 0.25
    assert found["system/steps_a_second", 4] == 1.0


def test_a_finished_training_keeps_the_times_and_the_machines_figures(workspace: Workspace) -> None:
    folder = workspace.scratch("live", "ink", "nsync", "0")
    with recorded(workspace, training_plan("nsync"), {"dagster.run_id": "d1"}):
        (folder / "system.csv").write_text("step,steps_a_second,peak_memory_gib\n3,2.0,1.5\n")
        train(workspace, "nsync")
    record = json.loads((folder / "run.json").read_text())
    (source,) = sources(workspace)  # and not the run under way, too
    part = next(source.runs())

    assert (part.started, part.ended) == (record["started"], record["ended"])
    assert values(part)["system/peak_memory_gib", 3] == 1.5
    assert part.tags["dagster.run_id"] == "d1"


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (RuntimeError("lights out"), "FAILED", "RuntimeError: lights out"),
        (KeyboardInterrupt("by hand"), "KILLED", "KeyboardInterrupt: by hand"),
    ],
)
def test_how_a_run_ended_is_recorded(
    workspace: Workspace, error: BaseException, status: str, said: str
) -> None:
    def cut_off() -> None:
        with recorded(workspace, training_plan("nsync"), {}):
            raise error

    with pytest.raises(type(error)):
        cut_off()
    (part,) = told(workspace, ".nsync/scratch/live/ink/nsync/0")

    assert (part.status, part.tags.get("error")) == (status, said)
    assert part.ended is not None


def test_an_interrupted_run_goes_on_as_the_same_one(workspace: Workspace) -> None:
    folder = workspace.scratch("live", "ink", "nsync", "0")
    started = []

    def attempt(steps: int) -> None:
        with recorded(workspace, training_plan("nsync", steps=steps), {}):
            started.append(json.loads((folder / "run.json").read_text())["started"])
            assert (folder / "history.csv").exists() == (len(started) == 2)
            (folder / "history.csv").write_text(history_csv(2))
            raise RuntimeError

    for steps in (3, 3, 4):
        with pytest.raises(RuntimeError):
            attempt(steps)

    assert started[0] == started[1] < started[2]


def test_nothing_is_told_of_what_is_being_written_or_is_no_artefact(workspace: Workspace) -> None:
    train(workspace, "nsync")
    model = workspace.model("ink", "nsync", 0)
    model.rename(model.with_name(".0.partial"))
    train(workspace, "lora")
    (workspace.model("ink", "lora", 0) / "made.json").write_text("{")

    assert list(sources(workspace)) == []


def sent_to(
    server: FakeServer, workspace: Workspace, told: dict[str, str] | None = None
) -> Outcome:
    return send(workspace, server, {} if told is None else told)  # type: ignore[arg-type]


def test_what_a_server_has_is_not_told_again_until_it_changes(workspace: Workspace) -> None:
    whole_style(workspace)
    server, known = FakeServer(), dict[str, str]()
    sent_to(server, workspace, known)
    told_first = len(server.parts)
    sent_to(server, workspace, known)
    assert len(server.parts) == told_first

    evaluate(workspace, [("lora", 0), ("nsync", 0)], margin=0.5)
    sent_to(server, workspace, known)
    assert len(server.parts) == told_first + 4  # the evaluation, and the scores of three runs


def test_another_server_is_told_everything(workspace: Workspace) -> None:
    train(workspace, "nsync")
    first, other = FakeServer(), FakeServer()
    sent_to(first, workspace)
    sent_to(other, workspace)

    assert first.parts == other.parts


def test_what_does_not_get_through_is_named_without_a_password_and_holds_up_nothing(
    workspace: Workspace,
) -> None:
    train(workspace, "lora")
    train(workspace, "nsync")
    server = FakeServer(fails=("lora-0 · ink",))
    known: dict[str, str] = {}
    outcome = sent_to(server, workspace, known)

    assert outcome.left == {"models/ink/lora/0": "http://***@host:5000 does not answer"}
    assert [part.name for part in server.parts] == ["nsync-0 · ink"]
    server.fails = ()
    assert sent_to(server, workspace, known).left == {}
    assert [part.name for part in server.parts] == ["nsync-0 · ink", "lora-0 · ink"]


def test_a_dead_server_is_not_asked_for_every_artefact(workspace: Workspace) -> None:
    for seed in range(6):
        train(workspace, "nsync", seed)
    server = FakeServer(fails=tuple(f"nsync-{seed} · ink" for seed in range(6)))
    outcome = sent_to(server, workspace)

    assert len(outcome.left) == 6
    assert server.asked == 3


def test_a_damaged_artefact_holds_up_nothing(workspace: Workspace) -> None:
    for seed in range(5):
        train(workspace, "nsync", seed)
        if seed < 4:
            (workspace.model("ink", "nsync", seed) / "training.json").unlink()
    server = FakeServer()
    outcome = sent_to(server, workspace)

    assert len(outcome.left) == 4
    assert "is damaged" in (outcome.problem or "")
    assert [part.name for part in server.parts] == ["nsync-4 · ink"]


def test_switched_off_nothing_is_recorded(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NSYNC_TRACKING", "off")
    with recorded(workspace, training_plan("nsync"), {}):
        train(workspace, "nsync")

    assert not workspace.state.exists()


def test_a_full_disk_costs_the_record_and_nothing_else(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nsync_pipeline.tracking.sender.write_whole", full)
    with recorded(workspace, training_plan("nsync"), {}):
        train(workspace, "nsync")

    assert "No space left on device" in caplog.text
    assert [one.folder for one in sources(workspace)] == [workspace.model("ink", "nsync", 0)]


def test_nested_settings_become_dotted_names() -> None:
    settings = {"seed": 0, "training": {"lora": {"rank": 8, "targets": None}, "words": ("a", "b")}}

    assert flat(settings) == {
        "seed": "0", "training.lora.rank": "8", "training.lora.targets": "null",
        "training.words": '["a", "b"]',
    }  # fmt: skip


def test_scores_make_a_table_of_metrics_by_variants() -> None:
    scores: Mapping[str, Mapping[str, float]] = {
        "base": {"cmmd": 3.0}, "nsync": {"cmmd": 1.23456, "style_margin": 0.5},
    }  # fmt: skip
    assert scores_table(scores).splitlines() == [
        "|  | base | nsync |",
        "| --- | --- | --- |",
        "| cmmd | 3 | 1.235 |",
        "| style_margin |  | 0.5 |",
    ]


NOWHERE = ["./mlruns", "mlruns", "file:///tmp/mlruns", "file:./mlruns", "localhost:5000", "http://",
           "http://:5000", "http://host:port", "http://host:99999", "sqlite://", "sqlite:///",
           "sqlite:///:memory:", "ftp://host/x", "://", "http://a b", "http//host"]  # fmt: skip


@pytest.mark.parametrize("uri", NOWHERE)
def test_an_address_at_which_nothing_would_be_recorded_is_refused(
    workspace: Workspace, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="MLflow records nothing at"):
        deliver(workspace, uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI"):
        deliver(workspace)


def test_a_stage_says_of_such_an_address_that_nothing_is_recorded_and_goes_on(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NSYNC_TRACKING")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "me:secret@host:5000")
    with recorded(workspace, training_plan("nsync"), {}):
        train(workspace, "nsync")

    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "MLflow records nothing at ***@host:5000" in caplog.text
    assert not workspace.tracking.exists()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("to http://me:s@cret@host:5000/api failed", "to http://***@host:5000/api failed"),
        ("postgresql://me:secret@host/db", "postgresql://***@host/db"),
        (
            "postgresql://host/db?user=me&password=secret",
            "postgresql://host/db?user=me&password=***",
        ),
        ("http://host:5000", "http://host:5000"),
        ("s3://b?aws_token=abc&x=1", "s3://b?aws_token=***&x=1"),
        ("401 for 'p w'd'", "401 for '***'"),
        ("token Zm9vYmFy was refused", "token *** was refused"),
        ("failed: 'dvc.yaml:training@ink'", "failed: 'dvc.yaml:training@ink'"),
    ],
)  # fmt: skip
def test_no_password_is_shown(text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:p w'd@host")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "Zm9vYmFy")
    assert masked(text) == shown


@settings(deadline=None)
@given(st.text("abc:/@?%'\" ", min_size=4, max_size=12), st.sampled_from(["http", "postgresql"]))
def test_whatever_a_password_is_made_of_it_is_not_shown(password: str, scheme: str) -> None:
    hidden = f"zz{password}zz"
    uri = f"{scheme}://me:{hidden}@host/x"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MLFLOW_TRACKING_URI", uri)
        for text in (uri, f"cannot reach {uri}: refused", f"tried '{uri}'", unquote(uri)):
            assert hidden not in masked(text)
            assert unquote(hidden) not in masked(text)


@pytest.mark.parametrize(
    ("uri", "resolved"),
    [
        ("sqlite:///mlflow.db", "sqlite:////w/mlflow.db"),
        ("sqlite:///sub/m.db?timeout=3", "sqlite:////w/sub/m.db?timeout=3"),
        ("sqlite:////a/m.db", "sqlite:////a/m.db"),
        ("http://host:5000", "http://host:5000"),
        ("postgresql+psycopg2://me@host/db", "postgresql+psycopg2://me@host/db"),
        ("databricks", "databricks"),
    ],
)
def test_an_address_means_the_same_whatever_the_current_folder(
    uri: str, resolved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tracking = Workspace(Path("/w")).tracking
    assert resolved_uri(usable_uri(uri), tracking) == resolved
    local = "sqlite" in uri or "postgresql" in uri
    assert artifact_location(uri, tracking) == (
        "file:///w/.nsync/mlflow/artifacts" if local else None
    )
