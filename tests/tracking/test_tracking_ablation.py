"""The runs of an ablation: an experiment of their own, and a tag for those compared last."""

import json
from pathlib import Path
from typing import Any

import pytest

from nsync_pipeline.tracking.destination import OWN, resolved_uri
from nsync_pipeline.tracking.hand_over import hand_over
from nsync_pipeline.tracking.placement import ABLATION
from nsync_pipeline.tracking.run_log import RunIdentity, open_run_log
from nsync_pipeline.workspace import LORA_FILE, Workspace


def identity(stage: str, variant: str | None, group: str | None) -> RunIdentity:
    seed = None if variant is None else 0
    return RunIdentity(stage, "ink", variant, "sketchbook", "same", seed, ablation=group)


def train(workspace: Workspace, variant: str, group: str | None) -> None:
    """The LoRA's content is the variant's name, in the ablation and beside it."""
    with open_run_log(workspace, identity("training", variant, group), {"seed": 0}) as log:
        log.metrics({"loss_positive": 0.5}, 1)
        model = workspace.model("ink", variant, 0)
        model.mkdir(parents=True, exist_ok=True)
        (model / LORA_FILE).write_text(variant)


def evaluate(workspace: Workspace, variants: tuple[str, ...], group: str | None) -> None:
    with open_run_log(workspace, identity("evaluation", None, group), {"seed": 0}):
        figures = {name: {"style_margin": float(len(variants))} for name in variants}
        metrics = {
            "base": {"style_margin": 0.0}, "variants": figures,
            "trainings": {name: {"0": found} for name, found in figures.items()},
        }  # fmt: skip
        workspace.evaluation("ink").mkdir(parents=True, exist_ok=True)
        (workspace.evaluation("ink") / "metrics.json").write_text(json.dumps(metrics))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """By experiment: a main training of `lora`, and an ablation that lost one variant and got one.

    First `lora` and `old` were compared, as group a; then `lora` and `new`, as group b.
    """
    root: Path = tmp_path_factory.mktemp("workspace")
    main, own = Workspace(root), Workspace(root, of_ablation=True)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("NSYNC_TRACKING", "later")
        environment.delenv("MLFLOW_TRACKING_URI", raising=False)
        train(main, "lora", None)
        evaluate(main, ("lora",), None)
        for group, trained, compared in (
            ("a", ("lora", "old"), ("lora", "old")),
            ("b", ("new",), ("lora", "new")),
        ):
            for variant in trained:
                train(own, variant, group)
            evaluate(own, compared, group)
    assert hand_over(main.tracking).problems == {}
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=resolved_uri(OWN, main.tracking))
    return {
        found.name: client.search_runs([found.experiment_id])
        for found in client.search_experiments()
    }


def test_they_do_not_mix_with_the_main_runs_not_even_of_the_same_weights(
    runs: dict[str, list[Any]],
) -> None:
    names = {name: sorted(run.info.run_name for run in found) for name, found in runs.items()}

    assert names["nsync/ink"] == ["base · ink", "evaluation · ink", "lora-0 · ink"]
    assert names["nsync/ink/ablation"] == [
        "base · ink", "evaluation · ink", "evaluation · ink", "lora-0 · ink", "new-0 · ink",
        "old-0 · ink",
    ]  # fmt: skip
    assert not any(ABLATION in run.data.tags for run in runs["nsync/ink"])


def test_the_tag_holds_together_what_was_compared_last(runs: dict[str, list[Any]]) -> None:
    groups: dict[str, list[str]] = {"a": [], "b": []}
    for run in runs["nsync/ink/ablation"]:
        groups[run.data.tags[ABLATION]].append(run.info.run_name)

    assert sorted(groups["a"]) == ["evaluation · ink", "old-0 · ink"]
    assert sorted(groups["b"]) == [
        "base · ink", "evaluation · ink", "lora-0 · ink", "new-0 · ink"
    ]  # fmt: skip
