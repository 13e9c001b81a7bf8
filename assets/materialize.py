"""``make demo``: a style whole, through Dagster; what is fresh is left alone."""

import argparse
import os
import sys
import time

from dagster import DagsterExecutionInterruptedError

from assets.home import open_instance
from assets.place import WORKSPACE
from nsync_pipeline.errors import UserError


def main() -> int:
    """Materialize what is out of date of one style, then say where everything is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--style", required=True, help="a style of params.yaml")
    style = parser.parse_args().style
    began = time.monotonic()
    os.chdir(WORKSPACE.root)
    try:
        made = _materialize(style)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except (KeyboardInterrupt, DagsterExecutionInterruptedError):
        print("Stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    seconds = time.monotonic() - began
    print(f"{made} artefacts made" if made else "Everything is fresh", f"({seconds:.0f} s)")
    _say_where(style)
    return 0


def _materialize(style: str) -> int:
    # Only here: reading the graph reads params.yaml, and a mistake in it is said like any other.
    from assets.definitions import defs
    from assets.dvc import DvcError
    from assets.partitions import PARAMS
    from assets.whole_style import RunFailedError, materialize_style

    PARAMS.style(style)
    with open_instance() as instance:
        try:
            return len(materialize_style(defs.resolve_job_def, instance, style, _say))
        except (DvcError, RunFailedError) as error:
            raise UserError(str(error)) from error


def _say(line: str) -> None:
    print(line, flush=True)  # stages print to the same terminal, from processes of their own


def _say_where(style: str) -> None:
    from assets.partitions import PARAMS

    loras = [
        WORKSPACE.model(style, run.variant, run.training_seed) for run in PARAMS.training_runs()
    ]
    print(f"  report   {WORKSPACE.report(style) / 'report.html'}")
    for label, folder in zip(("LoRAs", *[""] * len(loras)), loras, strict=False):
        print(f"  {label:8} {folder}")
    print("  Dagster  make ui, then http://127.0.0.1:3000")
    print("  MLflow   make ui, then http://127.0.0.1:5000")


if __name__ == "__main__":
    sys.exit(main())
