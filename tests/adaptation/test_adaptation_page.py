"""The page about what is trained: its example is one that the pipeline takes."""

import re
from pathlib import Path

from ruamel.yaml import YAML

from nsync_pipeline.params import parse_params

PAGE = Path(__file__).parents[2] / "docs" / "adaptation.md"


def test_the_pages_variants_are_settings() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    variants = YAML(typ="safe", pure=True).load(example)["variants"]
    params = parse_params({"styles": {"ink": {"source": "folder"}}, "variants": variants})
    trained = {name: params.variant(name) for name in variants}
    assert trained["ti"].lora is None
    assert trained["nsync"].textual_inversion is None
    assert trained["nsync_text"].lora is not None
    assert trained["nsync_text"].lora.text_encoder
    both = trained["nsync_ti_lora"]
    assert both.lora is not None
    assert both.textual_inversion is not None
    assert (both.embedding_learning_rate, both.textual_inversion.vectors) == (0.02, 2)
