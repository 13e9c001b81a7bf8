"""All of the code location."""

from dagster import Definitions

from assets.ablation import ablation
from assets.checks import CHECKS
from assets.externals import choices, pictures, settings
from assets.jobs import ablate, assess, learn, prepare, whole_style
from assets.lineage import ASSETS
from assets.sensors import dvc_lock

defs = Definitions(
    assets=[pictures, choices, *settings, *ASSETS, ablation],
    asset_checks=CHECKS,
    jobs=[prepare, learn, assess, whole_style, ablate],
    sensors=[dvc_lock],
)
