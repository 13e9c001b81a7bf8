"""The diagram of the graph in ``docs/pipeline.md``, from the table of stages.

``python -m tools.diagram --write`` writes it into the page.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from nsync_pipeline.graph.table import STAGES

PAGE = Path("docs/pipeline.md")
DIAGRAM = re.compile(r"```mermaid\n.*?```", re.S)


def diagram() -> str:
    """The graph in Mermaid's words; what follows from other edges is left out."""
    lines = ["flowchart LR"]
    for stage in STAGES.values():
        each = ", one a training" if stage.per_training else ""
        called = f"{stage.asset} ({stage.name})" if stage.asset != stage.name else stage.name
        lines.append(f'    {stage.asset}["{called}{each}"]')
        # A file beside an artefact of its name: what people wrote by hand.
        people_s = [f.split("/")[0] + ("_by_hand" if "." in f else "") for f in stage.reads]
        lines += [f"    {name}([{name}]) --> {stage.asset}" for name in people_s]
        lines += [f"    {STAGES[need].asset} --> {stage.asset}" for need in _direct(stage.name)]
    return "\n".join(lines)


def _direct(name: str) -> Iterator[str]:
    """What a stage needs, but for what its other needs need already."""
    needs = STAGES[name].needs
    for need in needs:
        if not any(need in _all_needs(other) for other in needs if other != need):
            yield need


def _all_needs(name: str) -> set[str]:
    direct = STAGES[name].needs
    return {*direct, *(further for need in direct for further in _all_needs(need))}


def with_diagram(text: str) -> str:
    """The page with the diagram of now in it."""
    return DIAGRAM.sub(f"```mermaid\n{diagram()}\n```", text, count=1)


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(with_diagram(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(diagram())
