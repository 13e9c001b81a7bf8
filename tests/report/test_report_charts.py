import re
import xml.etree.ElementTree as ET

import pytest

from nsync_pipeline.report.charts import (
    Curve,
    CurvePoint,
    Estimate,
    Line,
    Side,
    curve_chart,
    interval_chart,
    line_chart,
)
from nsync_pipeline.report.trainings import Training, training_charts

SVG_TEXT = "text"


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(SVG_TEXT)]


def row(step: int, **values: float | None) -> dict[str, float | None]:
    columns = (
        "loss_positive loss_negative loss_anchor norm_positive norm_negative norm_anchor "
        "cosine_negative cosine_anchor share_removed norm_refined learning_rate"
    )
    return {"step": step, **dict.fromkeys(columns.split(), None), **values}


def test_line_chart_is_whole_xml_with_a_label_and_round_ticks() -> None:
    svg = line_chart("loss <a>", [Line("lora", 0, ((1, 0.1), (50, 0.9), (100, 0.4)))])
    root = ET.fromstring(svg)
    assert root.attrib["aria-label"] == "loss <a>"
    assert root.attrib["role"] == "img"
    assert texts(svg) == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0", "0", "50", "100"]


def test_higher_values_are_drawn_higher() -> None:
    svg = line_chart("x", [Line("a", 0, ((0, 0.0), (1, 1.0)), noisy=False)])
    low, high = re.findall(r'<circle[^>]* cy="([\d.]+)"', svg)
    assert float(high) < float(low)


def test_a_constant_line_is_drawn() -> None:
    svg = line_chart("x", [Line("a", 0, ((0, 3.0), (1, 3.0)))])
    assert "nan" not in svg
    assert "inf" not in svg


def test_running_mean_of_a_straight_line_is_that_line() -> None:
    """Averages are centred, so they do not lag."""
    points = tuple((float(step), 2.0 * step) for step in range(101))
    svg = line_chart("x", [Line("a", 0, points)])
    raw, smooth = re.findall(r'<path class="[^"]*" d="([^"]+)"', svg)
    assert raw == smooth


def test_zero_is_kept_in_view() -> None:
    svg = line_chart("x", [Line("a", 0, ((0, 0.5), (1, 0.6)))], zero=True)
    assert 'class="zero"' in svg
    assert "0.0" in texts(svg)


def test_an_empty_chart_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one point"):
        line_chart("x", [])


def test_interval_chart_has_a_row_a_name() -> None:
    rows = [Estimate("base", None, 0.5, 0.4, 0.6), Estimate("lora", 0, 0.1, None, None)]
    svg = interval_chart("cmmd", rows, band=(-0.1, 0.1))
    assert {"base", "lora"} <= set(texts(svg))
    assert svg.count("whisker") == 1
    assert svg.count('class="band"') == 1
    start, end = (
        float(re.search(rf'{end}="([\d.]+)" [^>]*y1="23.0"', svg).group(1))  # type: ignore[union-attr]
        for end in ("x1", "x2")
    )
    assert start < end


def test_plain_training_has_no_chart_of_branches_it_does_not_have() -> None:
    plain = [row(step, loss_positive=0.5, norm_positive=1.0, share_removed=0.0, norm_refined=1.0)
             for step in (1, 2, 3)]  # fmt: skip
    titles = [chart.title for chart in training_charts([Training("lora", plain, {})])]
    assert titles == [
        "Loss on style pictures", "Length of the style gradient", "Length of the refined gradient",
    ]  # fmt: skip


def test_gradient_ratio_divides_the_negative_by_the_style_gradient() -> None:
    history = [row(step, norm_positive=2.0, norm_negative=3.0) for step in (1, 2)]
    charts = {c.title: c.svg for c in training_charts([Training("nsync", history, {})])}
    assert "nsync from 1.5 to 1.5" in charts["Negative over style gradient"]


def test_held_out_loss_has_a_point_a_measurement() -> None:
    history = [row(step, loss_positive=0.5) for step in (1, 2)]
    charts = training_charts([Training("lora", history, {2: 0.3, 0: 0.6})])
    held_out = next(c for c in charts if c.title == "Loss on held-out pictures")
    assert held_out.svg.count("<circle") == 2
    assert "lora from 0.6 to 0.3" in held_out.svg


def test_the_looks_have_a_chart_with_a_point_a_look() -> None:
    history = [row(step, loss_positive=0.5) for step in (1, 2)]
    charts = training_charts([Training("lora", history, {}, {2: 0.05, 1: -0.125})])
    looks = next(c for c in charts if c.title == "Style margin of the looks")
    assert looks.svg.count("<circle") == 2
    assert "lora from -0.125 to 0.05" in looks.svg


def test_the_learning_rate_is_a_plain_line() -> None:
    history = [row(step, loss_positive=0.5, learning_rate=1.0 / step) for step in (1, 2, 4)]
    charts = {chart.title: chart.svg for chart in training_charts([Training("lora", history, {})])}
    assert charts["Learning rate"].count("<path") == 1
    assert "<circle" not in charts["Learning rate"]


def test_same_figures_give_the_same_bytes() -> None:
    points = tuple((float(step), 1.0 / (step + 1)) for step in range(20))
    assert line_chart("x", [Line("a", 0, points)]) == line_chart("x", [Line("a", 0, points)])


def test_each_training_is_a_small_dot_and_in_view() -> None:
    """The second lies beyond the interval: the axis reaches it."""
    svg = interval_chart("one", [Estimate("lora", 0, 0.5, 0.4, 0.6, (0.3, 1.4))])
    dots = re.findall(r'class="series-0 each" cx="([\d.]+)"', svg)
    assert len(dots) == 2
    assert 118 < float(dots[0]) < float(dots[1]) < 480


@pytest.mark.parametrize("shares", [(100.0, 100.0), (40.0, 100.0), (0.0, 0.0)])
def test_the_axis_of_a_share_ends_at_all_of_it(shares: tuple[float, float]) -> None:
    points = tuple(CurvePoint(share, share, "a") for share in shares)
    side = Side("Content, %", 100.0)
    ticks = [float(text) for text in texts(curve_chart("x", [Curve(0, points)], side, side))
             if text.replace(".", "").isdigit()]  # fmt: skip
    assert max(ticks) == 100.0
    assert 0.0 <= min(ticks) <= min(shares)
