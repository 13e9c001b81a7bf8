"""``python -m nsync_pipeline.cli`` is ``nsync``."""

from nsync_pipeline.cli.app import main

main()
