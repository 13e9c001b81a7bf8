"""The command."""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.evidence.choice import table_of, write_choice
from benchmarks.evidence.matrix import (
    CHOOSING_SEEDS,
    FULL,
    METHODS,
    SEEDS,
    SETS,
    STYLES,
    TABLES,
    UNSEEN_STYLE,
)
from benchmarks.evidence.results import RESULTS
from benchmarks.evidence.run import diagnose_table, run_table, work
from nsync_pipeline.graph.processes import die_with_parent

REPOSITORY = Path(__file__).parents[2]


def main() -> int:
    arguments = parsed()
    folder = arguments.folder.resolve()
    # What only shows that everything runs is kept apart from what is measured.
    full = TABLES[arguments.table].scale == FULL
    kept = (RESULTS, REPOSITORY / "docs") if full else (folder, folder)
    results, docs = arguments.results or kept[0], arguments.docs or kept[1]
    whole = table_of(arguments.table, results)
    table = replace(
        whole,
        sets=tuple(name for name in whole.sets if name in (arguments.sets or whole.sets)),
        methods=tuple(
            name for name in whole.methods if name in (arguments.methods or whole.methods)
        ),
        seeds=tuple(seed for seed in whole.seeds if seed in (arguments.seeds or whole.seeds)),
        styles=tuple(s for s in whole.styles if s in (arguments.styles or whole.styles)),
    )
    if arguments.what == "work":
        die_with_parent()
        return 0 if work(table, folder, results) else 1
    if arguments.what == "choose":
        print("\n".join(write_choice(results, table)))
        return 0
    if arguments.what == "diagnose":
        from benchmarks.evidence.diagnoses import PAGE, write_diagnoses_page

        diagnose_table(table, folder, results)
        write_diagnoses_page(results, docs, whole)
        print(f"{docs / PAGE} is written")
        return 0
    wrong: list[str] = []
    if arguments.what == "run":
        wrong = run_table(table, folder, results, arguments.workers or workers())
    from benchmarks.evidence.page import write_page

    write_page(results, docs, table.scale)
    print(f"{docs / 'evidence.md'} is written")
    for line in wrong:
        print(f"evidence: {line}", file=sys.stderr)
    return 1 if wrong else 0


def workers() -> int:
    """One on a GPU, else one a core."""
    import torch

    return 1 if torch.cuda.is_available() else len(os.sched_getaffinity(0))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=__doc__)
    parser.add_argument(
        "what", choices=("run", "choose", "diagnose", "page", "work"),
        metavar="run|choose|diagnose|page",
        help="carry out what has no result and write the page; or choose, of the results of the "
        "table search, what each method of the table chosen is trained and drawn at; or say what "
        "of each training is bound to what its pictures share (docs/diagnosis.md); or only write "
        "the page",
    )  # fmt: skip
    parser.add_argument("--table", choices=tuple(TABLES), default="search")
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), metavar="SET", help="only these")
    parser.add_argument(
        "--methods", nargs="+", choices=tuple(METHODS), metavar="METHOD", help="only these"
    )
    styles = (*STYLES, UNSEEN_STYLE)
    parser.add_argument("--styles", nargs="+", choices=styles, metavar="STYLE", help="only these")
    seeds = (*SEEDS, *CHOOSING_SEEDS)
    parser.add_argument("--seeds", nargs="+", type=int, choices=seeds, help="only these")
    parser.add_argument("--workers", type=int, help="processes; a core each by default")
    parser.add_argument(
        "--folder", type=Path, default=REPOSITORY / ".nsync" / "evidence",
        help="where pictures and trainings are made; may be deleted at any time",
    )  # fmt: skip
    parser.add_argument("--results", type=Path, help="the result files")
    parser.add_argument("--docs", type=Path, help="where the page goes")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
