"""What docs/models.md shows is valid, and names what there is."""

import re
from pathlib import Path

from ruamel.yaml import YAML

from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.loading import FAMILIES

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


def test_its_settings_are_valid() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        found = YAML(typ="safe").load(block)
        assert list(found) == ["base_model"]
        BaseModelConfig.model_validate(found["base_model"])


def test_it_names_every_family_and_no_other() -> None:
    table = PAGE[PAGE.index("| `base_model.family` |") :].partition("\n\n")[0]
    named = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert named == list(FAMILIES)
