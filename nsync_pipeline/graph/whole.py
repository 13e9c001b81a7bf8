"""A style made whole in one process, an artefact after the other: what DVC and Dagster also do."""

import gc
from collections.abc import Callable, Collection, Iterator

from nsync_pipeline.errors import ParamsError
from nsync_pipeline.graph.artefacts import Artefact, Graph, State
from nsync_pipeline.graph.run import Outcome, bring_up_to_date, require_own_engine
from nsync_pipeline.graph.table import STAGES
from nsync_pipeline.workspace import Workspace


def chosen(
    graph: Graph,
    style: str,
    variants: Collection[str] = (),
    training_seeds: Collection[int] = (),
    until: str | None = None,
) -> Iterator[Artefact]:
    """The artefacts of ``style``, each after what it is made from, with the trainings asked for.

    Where not all trainings are, what is made from all of them is left out, unless the others are
    up to date. No variants, or no training seeds, stands for all of them.

    Raises:
        ParamsError: there is no such style, variant, training seed or stage.
    """
    params = graph.params
    params.style(style)
    for variant in variants:
        params.variant(variant)
    for seed in training_seeds:
        params.training_seed(seed)
    if until is not None and until not in STAGES:
        raise ParamsError(f"{until!r} is not a stage; there are: {', '.join(STAGES)}")
    standings = graph.standings([style])
    there = {a for a, standing in standings.items() if standing.state is State.FRESH}
    for artefact in standings:
        asked_for = artefact.training is None or (
            artefact.variant in (variants or params.variants)
            and artefact.training_seed in (training_seeds or params.training_seeds)
        )
        if asked_for and all(need in there for need in graph.needs(artefact)):
            there.add(artefact)
            yield artefact
        if artefact.stage.name == until and artefact.training is None:
            return


def make_whole(
    workspace: Workspace,
    style: str,
    variants: Collection[str],
    training_seeds: Collection[int],
    until: str | None,
    say: Callable[[str], None],
) -> list[Outcome]:
    """Make what is ``chosen`` and not up to date; raises as it and ``run_stage`` do."""
    require_own_engine(workspace)
    artefacts = list(chosen(Graph.read(workspace), style, variants, training_seeds, until))
    outcomes = []
    for number, artefact in enumerate(artefacts, start=1):
        # The settings are read anew: what is changed meanwhile counts from the next one on.
        outcome = bring_up_to_date(Graph.read(workspace), artefact)
        outcomes.append(outcome)
        if outcome.is_new:
            say(f"[{number} of {len(artefacts)}] {artefact.title}")
            gc.collect()  # a model's memory, before the next one is loaded
    return outcomes
