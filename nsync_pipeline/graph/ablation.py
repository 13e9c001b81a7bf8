"""An ablation of a style: a second set of variants in the same graph, compared in its own report.

Pictures, captions, negatives and the base's drawings are the style's own.
"""

import itertools
from collections.abc import Callable, Iterator

from nsync_pipeline.contrast.config import branches_of
from nsync_pipeline.errors import TrainingError
from nsync_pipeline.graph.artefacts import Artefact, Graph, State
from nsync_pipeline.graph.dvc import DVC_FILE, sync_dvc_file
from nsync_pipeline.graph.locks import sole_writer
from nsync_pipeline.graph.run import Outcome
from nsync_pipeline.graph.table import STAGES
from nsync_pipeline.graph.whole import make_all


def check_ablation(graph: Graph, style: str) -> None:
    """Check the settings as far as they can be before anything is made.

    Raises:
        ParamsError: style, section or variant are not there.
        TrainingError: a variant wants more negatives of a picture than are drawn.
    """
    params = graph.ablation_params
    params.style(style)
    for name in params.variants:
        settings = params.variant(name)
        wanted = branches_of(settings.update_rule, settings.contrast).pictures
        drawn = params.negative_set.per_positive
        if wanted > drawn:
            raise TrainingError(
                f"training.contrast.negatives of {name} asks for {wanted} negatives of a "
                f"picture, and negative_set.per_positive is {drawn}: set it to {wanted} or more"
            )


def in_order(graph: Graph, style: str) -> Iterator[Artefact]:
    """All that an ablation reads and makes, each after what it is made from.

    A seed of all variants, then the next: so what an interrupted ablation has can be compared.
    """
    for stage in STAGES.values():
        if stage.shared:
            yield from graph.of_stage(stage, style)
    own = [stage for stage in STAGES.values() if not stage.shared]
    trainings = [stage for stage in own if stage.per_training]
    params = graph.ablation_params
    for seed, variant in itertools.product(params.training_seeds, params.variants):
        for stage in trainings:
            yield Artefact(stage, style, variant, seed, of_ablation=True)
    for stage in own:
        if stage not in trainings:
            yield Artefact(stage, style, of_ablation=True)


def pending(graph: Graph, style: str) -> list[Artefact]:
    """What running it now would make; of what is to be made of something that is, all."""
    standings = graph.standings([style], of_ablation=True)
    return [a for a in in_order(graph, style) if standings[a].state is not State.FRESH]


def run_ablation(graph: Graph, style: str, say: Callable[[str], None]) -> list[Outcome]:
    """Make what is not there or out of date: trainings, drawings, evaluation, report.

    Raises:
        WorkspaceBusyError: another process is at this ablation.
        UserError: as ``check_ablation`` and the stages do.
    """
    check_ablation(graph, style)
    if (graph.workspace.root / DVC_FILE).is_file():
        sync_dvc_file(graph.workspace, ablation=True)
    with sole_writer(graph.workspace.lock(f"ablate-{style}"), f"the ablation of {style!r}"):
        return make_all(graph.workspace, list(in_order(graph, style)), say, graph.part)
