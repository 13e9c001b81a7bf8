"""Train every update rule, and its main options, on the drawn world's woodblock style.

    python -m benchmarks.update_rules FOLDER [--steps 150] [--batch 8] [--only orthogonal ...]

Pictures, captions and negatives (two a picture, drawn by the embedded base) are made once and kept
in FOLDER; each row is trained by the training stage itself, all with the same data, order and
seeds, and kept there as `rows/<row>.json`. Run again, it makes what is missing and prints the
table: steps, seconds (the median step's, times the steps), the share of the positive gradient
removed, cos(g+, g-), the cosine of g- to the running estimate before it, and the loss on held-out
pictures before and after (the same noise and timesteps for all).
"""

import argparse
import csv
import json
import shutil
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.stages import make_artefact
from nsync_pipeline.params import Params, parse_params
from nsync_pipeline.workspace import Workspace

STYLE = "woodblock"

ROWS: Mapping[str, Mapping[str, Any]] = {
    "none": {"update_rule": "none"},
    "orthogonal": {},
    "orthogonal_anchor": {"update_rule": "orthogonal_anchor"},
    "mean": {"update_rule": "mean", "contrast": {"negative_prompt": "not_in_style"}},
    "mean_anchor": {
        "update_rule": "mean",
        "contrast": {"negative_prompt": "not_in_style", "anchor": True},
    },
    "released": {"update_rule": "released"},
    "released_anchor": {"update_rule": "released", "contrast": {"anchor": True}},
    "block": {"contrast": {"scope": "block"}},
    "module": {"contrast": {"scope": "module"}},
    "tensor": {"contrast": {"scope": "tensor"}},
    "shared_noise": {"shared_noise": True},
    "positive_part": {"contrast": {"positive_part": True}},
    "shared_positive_part": {"shared_noise": True, "contrast": {"positive_part": True}},
    "optimizer_metric": {"contrast": {"metric": "optimizer"}},
    "shared_metric": {"shared_noise": True, "contrast": {"metric": "optimizer"}},
    "running_mean": {"contrast": {"negative_estimate": "running_mean"}},
    "running_basis": {"contrast": {"negative_estimate": "running_basis"}},
    "span_of_2": {"contrast": {"negatives": 2}},
}
"""What each row changes; the rule is ``orthogonal`` where none is named."""

COLUMNS = {
    "row": "row",
    "steps": "steps",
    "seconds": "s",
    "mean_share_removed": "share removed",
    "largest_share_removed": "largest",
    "mean_cosine_negative": "cos(g+, g-)",
    "mean_cosine_estimate": "cos(g-, estimate)",
    "held_out_loss_before": "held out before",
    "held_out_loss": "after",
}


@dataclass
class StepClock:
    """A ``Progress`` that keeps when each step of the training was done."""

    row: str
    times: list[float] = field(default_factory=list)

    def __call__(self, what: str, done: int, total: int) -> None:
        if what.startswith("training"):
            self.times.append(time.perf_counter())
        if done == total or (done and done % max(1, total // 5) == 0):
            print(f"  {self.row}: {what} {done} of {total}", flush=True)

    def step(self) -> float | None:
        """Seconds a step; None where there are not two."""
        gaps = [after - before for before, after in zip(self.times, self.times[1:], strict=False)]
        return statistics.median(gaps) if gaps else None


def main() -> None:
    arguments = parsed()
    root: Path = arguments.folder.resolve()
    root.mkdir(parents=True, exist_ok=True)
    params = settings(arguments)
    workspace = Workspace(root)
    make_data(workspace, params)
    rows = [made(workspace, params, row) for row in ROWS if row in arguments.only]
    print_table([row for row in rows if row is not None])


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="where everything is made and kept")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=8, help="triplets a step")
    parser.add_argument("--pictures", type=int, default=120, help="45 %% of them are held out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=tuple(ROWS), default=list(ROWS), metavar="ROW")
    return parser.parse_args()


def settings(arguments: argparse.Namespace) -> Params:
    """Those of the demo, for a style drawn here."""
    convolutions = ["conv1", "conv2"]
    attention = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]
    return parse_params(
        {
            "seed": arguments.seed,
            "styles": {STYLE: {"source": f"sketchbook:{STYLE}", "pictures": arguments.pictures}},
            "style_set": {"test_fraction": 0.45},
            "negative_set": {
                "per_positive": 2,
                "sampler": {"scheduler": "dpm", "steps": 20, "guidance_scale": 5.0},
            },
            "training": {
                "steps": arguments.steps,
                "batch_size": arguments.batch,
                "learning_rate": 0.002,
                "lora": {"rank": 8, "alpha": 8.0, "targets": attention + convolutions},
            },
            "variants": {
                name: {"update_rule": "orthogonal"} | dict(changes)
                for name, changes in ROWS.items()
            },
        }
    )


def make_data(workspace: Workspace, params: Params) -> None:
    """Draw pictures, captions and negatives, once."""
    told = {
        "seed": params.seed,
        "style": params.style(STYLE).model_dump(mode="json"),
        "negatives": params.negative_set.model_dump(mode="json"),
    }
    record = workspace.root / "data.json"
    if record.is_file():
        if json.loads(record.read_text()) != told:
            raise SystemExit(f"{record} is of other pictures: give another folder")
        return
    for stage in ("style_set", "captions", "negative_set"):
        make_artefact(workspace, params, stage, STYLE, progress=StepClock(stage))
    record.write_text(json.dumps(told, indent=2) + "\n")


def made(workspace: Workspace, params: Params, row: str) -> dict[str, Any]:
    """The figures of ``row``: as kept, or else trained now."""
    asked = params.variant(row).model_dump(mode="json")
    file = workspace.root / "rows" / f"{row}.json"
    if file.is_file():
        kept: dict[str, Any] = json.loads(file.read_text())
        if kept["settings"] == asked:
            return kept
    # A row that was broken off is trained anew, so that all its steps are timed alike.
    shutil.rmtree(workspace.scratch("training", STYLE, row, "0"), ignore_errors=True)
    clock = StepClock(row)
    make_artefact(workspace, params, "training", STYLE, row, progress=clock)
    model = workspace.model(STYLE, row, 0)
    summary = json.loads((model / "training.json").read_text())
    figures = {name: summary.get(name) for name in COLUMNS}
    step = clock.step()
    figures |= {
        "row": row,
        "seconds": None if step is None else step * params.variant(row).steps,
        "mean_cosine_estimate": mean_of(model / "history.csv", "cosine_estimate"),
        "settings": asked,
    }
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def mean_of(history: Path, column: str) -> float | None:
    """The mean of a column of ``history.csv`` over the steps that have it."""
    with history.open(newline="") as file:
        values = [float(row[column]) for row in csv.DictReader(file) if row[column]]
    return statistics.fmean(values) if values else None


def print_table(rows: list[dict[str, Any]]) -> None:
    print("| " + " | ".join(COLUMNS.values()) + " |")
    print("| --- |" + " ---: |" * (len(COLUMNS) - 1))
    for row in rows:
        print("| " + " | ".join(shown(name, row[name]) for name in COLUMNS) + " |")


def shown(name: str, value: str | float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if name == "seconds" else f"{value:.3f}"
    return str(value)


if __name__ == "__main__":
    main()
