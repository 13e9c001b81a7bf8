"""All of the code location."""

from dagster import Definitions

from assets.checks import CHECKS
from assets.externals import pictures, settings
from assets.jobs import assess, learn, prepare, whole_style
from assets.lineage import ASSETS
from assets.sensors import dvc_lock

defs = Definitions(
    assets=[pictures, *settings, *ASSETS],
    asset_checks=CHECKS,
    jobs=[prepare, learn, assess, whole_style],
    sensors=[dvc_lock],
)
