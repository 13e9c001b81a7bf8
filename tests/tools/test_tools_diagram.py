"""The page on the pipeline shows the graph that the table says."""

from pathlib import Path

from nsync_pipeline.graph.table import STAGES
from tools.diagram import with_diagram

PAGE = Path(__file__).parents[2] / "docs" / "pipeline.md"


def test_the_diagram_is_the_table_s() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert with_diagram(text) == text


def test_every_stage_has_a_row() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for stage in STAGES.values():
        folder = stage.folder.format(
            style="<style>", variant="<variant>", training_seed="<training seed>"
        )
        assert f"| `{stage.name}` | `{folder}` |" in text
