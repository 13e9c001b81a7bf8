"""The sensor ``workspace``: Dagster follows params.yaml and what any door has made."""

import shutil
from collections.abc import Callable
from uuid import uuid4

import pytest
from dagster import (
    AssetCheckEvaluation,
    AssetKey,
    AssetMaterialization,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    SkipReason,
    build_sensor_context,
)
from dagster._core.test_utils import create_run_for_test

from assets import sensors
from assets.lineage import DEVICES, PEOPLE_S
from assets.sensors import Known, follow_partitions, report_news, workspace
from nsync_pipeline.graph.artefacts import Graph
from nsync_pipeline.graph.table import STAGES
from nsync_pipeline.workspace import Workspace
from tests.support.dagster_page import stale_in_dagster
from tests.support.demo_workspace import edit_params

RUN = str(uuid4())
ALL = 10  # artefacts of one style with two variants
CHANGED = [
    "models/ink/nsync/0", "samples/ink/nsync/0", "evaluation/ink", "reports/ink"
]  # fmt: skip

Make = Callable[..., list[str]]


class Page:
    """The sensor, tick by tick."""

    def __init__(self, instance: DagsterInstance, place: Workspace) -> None:
        self.instance, self.place, self.known = instance, place, Known()

    def tick(self) -> list[str]:
        graph = Graph.read(self.place)
        follow_partitions(self.instance, graph)
        return report_news(self.instance, graph, self.known)


def evaluations(instance: DagsterInstance) -> list[AssetCheckEvaluation]:
    """Every evaluation of a check that Dagster was told of, oldest first."""
    logs = instance.all_logs("", of_type=DagsterEventType.ASSET_CHECK_EVALUATION)
    return [log.dagster_event.asset_check_evaluation_data for log in logs if log.dagster_event]


def failing(instance: DagsterInstance) -> dict[str, str]:
    """What the newest ``up_to_date`` of each asset says, where it does not pass."""
    latest = {one.asset_key.to_user_string(): one for one in evaluations(instance)}
    return {key: str(one.description) for key, one in latest.items() if not one.passed}


def made_news(news: list[str]) -> list[str]:
    """Without what was said of checks."""
    return [name for name in news if ": " not in name]


@pytest.fixture
def page(instance: DagsterInstance, place: Workspace) -> Page:
    return Page(instance, place)


def test_partitions_follow_params_without_a_reload(page: Page, place: Workspace) -> None:
    keys = page.instance.get_dynamic_partitions
    page.tick()
    assert keys("style") == ["ink"]
    assert keys("training") == ["lora-0", "nsync-0"]
    assert len(keys("ablation_training")) == 4
    edit_params(place, "variants:\n", "variants:\n  more: {update_rule: none}\n")
    oil = "  oil: {source: 'sketchbook:woodblock', pictures: 8}\n"
    edit_params(place, "styles:\n", f"styles:\n{oil}")
    page.tick()
    assert set(keys("style")) == {"ink", "oil"}
    assert set(keys("training")) == {"lora-0", "nsync-0", "more-0"}
    edit_params(place, "  more: {update_rule: none}\n", "")
    edit_params(place, oil, "")
    page.tick()
    assert keys("style") == ["ink"]
    assert keys("training") == ["lora-0", "nsync-0"]


def test_what_was_made_elsewhere_is_fresh_after_a_tick(page: Page, make: Make) -> None:
    page.tick()
    make()
    news = page.tick()
    assert len(made_news(news)) == ALL
    assert len(news) == ALL + len(STAGES)
    assert stale_in_dagster(page.instance, page.place) == {}
    assert failing(page.instance) == {}
    assert page.tick() == []


def test_artefact_shows_previews_first_and_where_it_lies(page: Page, make: Make) -> None:
    make()
    page.tick()
    event = page.instance.get_latest_materialization_event(AssetKey("style_set"))
    assert event is not None
    assert event.asset_materialization is not None
    shown = event.asset_materialization.metadata
    assert list(shown)[:2] == ["at a glance", "a square"]
    assert len(str(shown["at a glance"].value)) < 1000  # what is longer the page folds
    assert str(shown["a square"].value).startswith("![a square](data:image/jpeg;base64,")
    assert shown["folder"].value == str(page.place.style_set("ink"))


def test_a_damaged_preview_is_left_out(page: Page, make: Make) -> None:
    make()
    (page.place.style_set("ink") / "preview-1.jpg").write_bytes(b"\xff\xd8 and no more")
    page.tick()
    event = page.instance.get_latest_materialization_event(AssetKey("style_set"))
    assert event is not None
    assert event.asset_materialization is not None
    assert "at a glance" not in event.asset_materialization.metadata


def test_changed_setting_of_a_variant_is_told_of_what_depends_on_it(
    page: Page, make: Make, place: Workspace
) -> None:
    make()
    page.tick()
    edit_params(place, "nsync: {", "nsync: {learning_rate: 0.5, ")
    assert made_news(page.tick()) == []
    training = "training · ink · nsync · 0 is not up to date"
    generation = "generation · ink · nsync · 0 is not up to date"
    assert failing(page.instance) == {
        "lora": "1 of 2 not up to date; ink|nsync-0: settings: training.learning_rate 0.002 -> 0.5",
        "samples": f"1 of 2 not up to date; ink|nsync-0: {training}",
        "evaluation": f"1 of 1 not up to date; ink: {generation}",
        "report": f"1 of 1 not up to date; ink: {training}",
    }
    assert page.tick() == []
    assert len(make()) == len(CHANGED)
    assert made_news(page.tick()) == CHANGED
    assert failing(page.instance) == {}
    assert stale_in_dagster(page.instance, place) == {}
    assert page.tick() == []


def test_result_of_a_check_is_told_as_often_as_it_changes(
    page: Page, make: Make, place: Workspace
) -> None:
    make()
    page.tick()
    for before, after in ((0.002, 0.5), (0.5, 0.1), (0.1, 0.002)):
        edit_params(place, f"learning_rate: {before}", f"learning_rate: {after}")
        page.tick()
        assert len(failing(page.instance)) == (0 if after == 0.002 else 4)


def test_what_people_filled_is_news_once(page: Page, make: Make, place: Workspace) -> None:
    make()
    page.tick()
    (place.choices("ink") / "one.json").write_text("{}")
    why = "1 of 1 not up to date; ink: inputs: choices/ink"
    assert page.tick() == ["choices/ink", f"report: {why}"]
    assert failing(page.instance) == {"report": why}
    assert page.tick() == []


def test_what_is_not_there_is_no_news(page: Page, make: Make, place: Workspace) -> None:
    page.tick()
    assert evaluations(page.instance) == []
    make()
    page.tick()
    shutil.rmtree(place.report("ink"))
    assert page.tick() == []
    assert failing(page.instance) == {}


def test_ablation_is_followed_beside_the_style(page: Page, make: Make) -> None:
    make()
    made = make(of_ablation=True)
    assert len([path for path in page.tick() if path.startswith("ablations/")]) == len(made) == 10
    assert stale_in_dagster(page.instance, page.place, of_ablation=True) == {}


def test_nothing_is_reported_while_a_run_makes_it_nor_after(page: Page, make: Make) -> None:
    make()
    page.tick()
    shutil.rmtree(page.place.captions("ink"))
    edit_params(page.place, "seed: 0\n", "seed: 1\n")
    tags = {"dagster/partition": "ink"}
    create_run_for_test(page.instance, tags=tags, status=DagsterRunStatus.STARTED, run_id=RUN)
    make("style_set")
    assert not any(name.startswith("data/ink") for name in page.tick())
    graph = Graph.read(page.place)
    artefact = graph.artefact("style_set", "ink")
    made = graph.made(artefact)
    assert made is not None
    event = AssetMaterialization(
        "style_set", partition="ink", tags={sensors.DATA_VERSION: made.content}
    )
    page.instance.report_runless_asset_event(event)  # as the run would
    page.instance.delete_run(RUN)
    assert not any(name.startswith("data/ink/style_set") for name in page.tick())


def test_lost_cursor_reports_nothing_that_dagster_knows(page: Page, make: Make) -> None:
    make()
    page.tick()
    page.known = Known()
    assert made_news(page.tick()) == []


def test_first_import_goes_on_in_portions_and_settings_may_be_broken(
    instance: DagsterInstance, place: Workspace, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make()
    monkeypatch.setattr(sensors, "PORTION", 1)
    cursor, said = None, []
    news = ALL + len(PEOPLE_S) + len(STAGES)  # what people filled, and the checks, too
    for _ in range(news + 1):
        context = build_sensor_context(instance, cursor=cursor)
        result = workspace(context)
        assert isinstance(result, SkipReason)
        said.append(str(result.skip_message))
        cursor = context.cursor
    assert said[0] == "reported sources/ink"
    assert said[-1] == "Dagster knows all of the workspace"
    assert len(set(said)) == news + 1
    place.params_file.write_text("styles: 3\n")
    result = workspace(build_sensor_context(instance, cursor=cursor))
    assert isinstance(result, SkipReason)
    assert "styles" in str(result.skip_message)


def test_the_pool_has_as_many_places_as_stages_run_at_once(
    place: Workspace, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One setting says so: what is set elsewhere does not last."""
    monkeypatch.setattr("nsync_pipeline.graph.places.cores", lambda: tuple(range(4)))
    storage = instance.event_log_storage

    def limit_now() -> int | None:
        workspace(build_sensor_context(instance))
        return next(pool.limit for pool in storage.get_pool_limits() if pool.name == DEVICES)

    assert limit_now() == 1
    edit_params(place, "seed: 0\n", "seed: 0\nexecutor: {slots: 3}\n")
    assert limit_now() == 3
    storage.set_concurrency_slots(DEVICES, 5)
    assert limit_now() == 3
    edit_params(place, "device: cpu", "device: cuda")
    monkeypatch.setattr("assets.workspace._cards", lambda: ["0", "1"])
    assert limit_now() == 2
