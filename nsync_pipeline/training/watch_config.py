"""What is looked at while a training runs."""

from nsync_pipeline.strict import Section


class WatchConfig(Section):
    """``training.watch`` in params.yaml."""
