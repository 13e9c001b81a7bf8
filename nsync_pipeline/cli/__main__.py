"""``python -m nsync_pipeline.cli`` is ``nsync``."""

from nsync_pipeline.cli import main

if __name__ == "__main__":  # and not in the processes that look at pictures
    main()
