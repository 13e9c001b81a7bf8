"""How the branches' gradients become one: what lies beside the update rule."""

from nsync_pipeline.strict import Section


class ContrastConfig(Section):
    """``training.contrast`` in params.yaml."""
