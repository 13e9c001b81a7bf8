"""The packages: `assets/` here is `nsync_assets` where it is installed (setuptools' pyproject.toml
cannot both find packages and rename one)."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["nsync_pipeline*"]), "nsync_assets"],
    package_dir={"nsync_assets": "assets"},
)
