"""The loss: how it is weighted, and how its timesteps are drawn; the same in all branches."""

from nsync_pipeline.strict import Section


class ObjectiveConfig(Section):
    """``training.objective`` in params.yaml."""
