"""What needs no model imports none of the libraries that models are made of: they take seconds."""

import json
import subprocess
import sys
from pathlib import Path

PARAMS = """\
base_model: {device: auto}
styles:
  ink: {source: "sketchbook:woodblock+night", pictures: 3, test_pictures: 2}
variants:
  lora: {update_rule: none}
"""

SCRIPT = """
import json, sys
from pathlib import Path
from nsync_pipeline.cli.app import app
from nsync_pipeline.errors import UserError

found = {}

def heavy():
    return sorted({"torch", "diffusers", "peft", "mlflow", "dagster", "dvc"} & set(sys.modules))

def command(*arguments):
    try:
        app(list(arguments), standalone_mode=False)
    except UserError:
        pass
    found[" ".join(arguments)] = heavy()

command("status")
command("run", "captions", "--style", "oil")
command("run", "nothing", "--style", "ink")
command("deliver")
command("run", "style_set", "--style", "ink")
command("run", "captions", "--style", "ink")
import nsync_pipeline.report.stage
found["report"] = heavy()
Path("found.json").write_text(json.dumps(found))
"""


def test_commands_and_stages_without_a_model_import_no_model_libraries(tmp_path: Path) -> None:
    """In one process: what the later ones find, the earlier ones have not imported either."""
    (tmp_path / "params.yaml").write_text(PARAMS)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(map(tuple, found.values())) == {()}, found
    assert len(found) == 7
    assert (tmp_path / "data" / "ink" / "captions" / "manifest.parquet").is_file()
