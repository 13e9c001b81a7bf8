"""What is written of a training's steps."""

import csv
import io

import pytest

from nsync_pipeline.contrast.config import ANCHOR, NEGATIVE, POSITIVE, Branch
from nsync_pipeline.contrast.refiner import Diagnostics
from nsync_pipeline.training.history import history_csv, step_record, summarise

DIAGNOSTICS = Diagnostics(0.1, 2.0, None, -0.25, None, 0.25, 1 / 3)


def test_a_row_has_every_digit_and_empty_cells_where_a_branch_is_not_there() -> None:
    record = step_record(1, {POSITIVE: 0.1 + 0.2, NEGATIVE: 1.5}, DIAGNOSTICS, 1e-3)
    rows = list(csv.DictReader(io.StringIO(history_csv([record]))))
    assert list(rows[0]) == [
        "step", "loss_positive", "loss_negative", "loss_anchor", "norm_positive", "norm_negative",
        "norm_anchor", "cosine_negative", "cosine_anchor", "share_removed", "norm_refined",
        "learning_rate", "largest_share_removed", "cosine_estimate", "basis_rank",
        "estimate_bytes", "loss_scale", "overflows",
    ]  # fmt: skip
    assert float(rows[0]["loss_positive"]) == 0.1 + 0.2
    assert float(rows[0]["norm_refined"]) == 1 / 3
    assert rows[0]["step"] == "1"
    assert rows[0]["loss_anchor"] == rows[0]["norm_anchor"] == rows[0]["cosine_anchor"] == ""


def test_the_loss_of_several_negatives_is_their_mean() -> None:
    losses = {POSITIVE: 1.0, NEGATIVE: 0.25, Branch("negative", 1): 0.75, ANCHOR: 2.0}
    record = step_record(1, losses, DIAGNOSTICS, 1e-3)
    assert (record.loss_negative, record.loss_anchor) == (0.5, 2.0)


def test_overflows_are_counted_only_where_losses_are_scaled() -> None:
    assert step_record(1, {POSITIVE: 1.0}, DIAGNOSTICS, 1e-3).overflows is None
    scaled = step_record(1, {POSITIVE: 1.0}, DIAGNOSTICS, 1e-3, loss_scale=2.0, overflows=3)
    assert (scaled.loss_scale, scaled.overflows) == (2.0, 3)


def test_the_summary_is_of_the_last_tenth_and_of_all_steps() -> None:
    """Losses 1 .. 20: the last two are 19 and 20, their mean 19.5. Cosines -0.25 throughout."""
    history = [
        step_record(step, {POSITIVE: float(step), NEGATIVE: 1.0}, DIAGNOSTICS, 1e-3)
        for step in range(1, 21)
    ]
    summary = summarise(history, {0: 0.9, 10: 0.7, 20: 0.5})
    assert summary["last_loss_positive"] == 19.5
    assert summary["mean_cosine_negative"] == pytest.approx(-0.25)
    assert (summary["held_out_loss_before"], summary["held_out_loss"]) == (0.9, 0.5)
    assert summary.keys() & {"last_loss_anchor", "mean_cosine_anchor"} == set()


def test_a_single_step_has_a_summary() -> None:
    history = [
        step_record(1, {POSITIVE: 2.0}, Diagnostics(1.0, None, None, None, None, 0.0, 1.0), 1e-3)
    ]
    summary = summarise(history, {})
    assert summary["last_loss_positive"] == 2.0
    assert "held_out_loss" not in summary
