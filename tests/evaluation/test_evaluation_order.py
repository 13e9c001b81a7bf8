"""What a training scores depends on that training, the real pictures, the base and the settings."""

import json
from itertools import combinations, permutations
from typing import Any

import pyarrow.parquet as pq
import pytest

from nsync_pipeline.evaluation import stage as evaluation
from nsync_pipeline.evaluation.config import EvaluationSettings
from nsync_pipeline.pictures.manifest import SAMPLES, read_manifest, write_manifest
from nsync_pipeline.workspace import BASE, MANIFEST_FILE, Workspace
from tests.support.contexts import stage_context
from tests.support.style_workspace import STYLE, build_style_workspace, style_params

RULES = {"lora": "none", "nsync": "orthogonal", "again": "orthogonal"}
SEEDS = [0, 4]
REAL_AND_BASE = (BASE, "ceiling", "floor")
ORDERS = [("nsync",), ("again", "lora"), *permutations(RULES)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Three variants, the last with the pictures of the first at other seeds.

    A caption was not drawn: so diversity is over random parts of the held-out pictures.
    """
    root = tmp_path_factory.mktemp("made")
    workspace = build_style_workspace(root, test=7, train=5, training_seeds=(*SEEDS, 9, 11))
    for seed, other in zip(SEEDS, (9, 11), strict=True):
        folder = workspace.samples(STYLE, "again", seed)
        folder.parent.mkdir(exist_ok=True)
        folder.symlink_to(workspace.samples(STYLE, "lora", other))
    for manifest in (root / "samples").rglob(MANIFEST_FILE):
        write_manifest(manifest, read_manifest(manifest, SAMPLES)[:-1], SAMPLES)
    return workspace


def evaluated(workspace: Workspace, variants: tuple[str, ...]) -> dict[str, Any]:
    """All that is written about a style, by what it is of."""
    params = style_params(
        variants={name: {"update_rule": RULES[name]} for name in variants},
        training_seeds=SEEDS,
        evaluation={"bootstrap_draws": 100},
    )
    said = evaluation.run(stage_context(EvaluationSettings, workspace, params, STYLE))
    folder = workspace.evaluation(STYLE)
    metrics = json.loads((folder / "metrics.json").read_text())
    record = json.loads((folder / "evaluation.json").read_text())
    rows = pq.read_table(folder / "pictures.parquet").to_pylist()
    summary = {
        name: {file.stem: json.loads(file.read_text())[name] for file in folder.glob("figures/*")}
        for name in (BASE, *variants)
    }
    own: dict[str, Any] = {
        name: [
            *(found["variants"][name] for found in (metrics, record["sets"])),
            *(found["trainings"][name] for found in (metrics, record["sets"])),
            [row for row in rows if row["variant"] == name],
            summary[name],
            {key: value for key, value in said.figures.items() if key.startswith(f"{name} ")
             and "against" not in key},
        ]
        for name in variants
    }  # fmt: skip
    own["real and base"] = [
        *(found[name] for found in (metrics, record["sets"]) for name in REAL_AND_BASE),
        [row for row in rows if row["variant"] == BASE],
        summary[BASE],
        {key: value for key, value in record.items()
         if key not in ("sets", "comparisons", "against_base")},
    ]  # fmt: skip
    own["comparisons"] = {(found["a"], found["b"]): found for found in record["comparisons"]}
    return own


@pytest.fixture(scope="module")
def all_three(made: Workspace) -> dict[str, Any]:
    return evaluated(made, tuple(RULES))


@pytest.mark.parametrize("variants", ORDERS, ids="-".join)
def test_neither_order_nor_company_changes_a_figure(
    made: Workspace, all_three: dict[str, Any], variants: tuple[str, ...]
) -> None:
    """Permuted, or some of them removed: every figure stays to the byte.

    Only the comparisons change: the later variant is compared with the earlier.
    """
    found = evaluated(made, variants)
    for name in (*variants, "real and base"):
        assert json.dumps(found[name]) == json.dumps(all_three[name])
    comparisons = found["comparisons"]
    assert set(comparisons) == {(b, a) for a, b in combinations(variants, 2)}
    for pair, comparison in comparisons.items():
        before = all_three["comparisons"].get(pair)
        sign = 1 if before else -1
        before = before or all_three["comparisons"][pair[::-1]]
        for measure in ("style_margin", "cmmd"):
            assert comparison[measure]["value"] == sign * before[measure]["value"]
