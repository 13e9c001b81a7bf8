"""The job ``ablate`` of one style: run in a workspace, prints JSON of what Dagster keeps of it."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))

from assets.home import open_instance
from dagster import AssetKey

from assets.definitions import defs


def main() -> None:
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    with open_instance() as instance:
        result = defs.resolve_job_def("ablate").execute_in_process(
            instance=instance, partition_key=sys.argv[1], run_config=quiet, raise_on_error=False
        )
        event = instance.get_latest_materialization_event(AssetKey("ablation"))
        made = event.asset_materialization if event and result.success else None
        failures = [event.step_failure_data.error for event in result.get_step_failure_events()]
        said = {
            "success": result.success,
            "metadata": {k: str(v.value) for k, v in made.metadata.items()} if made else {},
            "log": [e.user_message for e in instance.all_logs(result.run_id)],
            "failures": [str((error and error.cause) or error) for error in failures],
        }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
