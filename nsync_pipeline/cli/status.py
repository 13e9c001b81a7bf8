"""``nsync status``: what is there, what is out of date, and why."""

from collections import Counter

from nsync_pipeline.graph.artefacts import Graph, State
from nsync_pipeline.graph.progress import running
from nsync_pipeline.workspace import Workspace


def print_status(workspace: Workspace, style: str | None, of_ablation: bool) -> None:
    """A line for each artefact that is not up to date, then how many there are of each kind.

    Raises:
        ParamsError: there is no such style, or no section ``ablation``.
    """
    graph = Graph.read(workspace)
    styles = list(graph.params.styles)
    if style is not None:
        graph.params.style(style)
        styles = [style]
    for line in running(workspace).values():
        print(f"running  {line}")
    standings = graph.standings(styles, of_ablation)
    for artefact, standing in standings.items():
        if standing.state in (State.STALE, State.MISSING):
            print(f"{standing.state.value:8} {artefact.title}: {standing.why}")
    counts = Counter(standing.state for standing in standings.values())
    print(", ".join(f"{counts[state]} {state.value}" for state in State if counts[state]))
