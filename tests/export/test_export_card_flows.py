"""The code on a model card of each family whose prompts a language model reads: it runs, and draws.

That the files it loads draw what was trained is held in ``tests/families``.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import pytest

from nsync_pipeline.export.folder import export_model
from nsync_pipeline.export.snippet import DENOISERS
from nsync_pipeline.families.loading import FAMILIES
from tests.support.shared_variant import trained_workspace
from tests.support.tiny_flow_models import save_tiny_flow_model, save_tiny_flux_1
from tests.support.tiny_style import STYLE

SIDE = 32
BASES: dict[str, Callable[[Path], Path]] = {
    "flux_1": save_tiny_flux_1,
    **{
        name: partial(save_tiny_flow_model, family=name)
        for name in ("z_image", "flux_2_klein", "qwen_image", "krea_2")
    },
}


@pytest.mark.parametrize("name", BASES)
def test_the_code_on_a_card_draws_with_what_was_trained(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs as it is, beside a folder of the base's name; only how large it draws is set here."""
    folder = tmp_path / "out"
    base = BASES[name](folder.parent / "tiny")
    workspace, params = trained_workspace(
        tmp_path / "workspace", base, drawn=False, resolution=SIDE, lora={"rank": 2, "alpha": 4.0}
    )
    export_model(workspace, params, STYLE, "nsync", "diffusers", folder)
    code = (folder / "README.md").read_text("utf-8").split("```python\n")[1].split("```")[0]
    (folder / base.name).symlink_to(base)
    monkeypatch.chdir(folder)
    kind = getattr(diffusers, FAMILIES[name].pipeline_class)  # type: ignore[index]
    few: dict[str, Any] = {"num_inference_steps": 2, "height": SIDE, "width": SIDE}
    monkeypatch.setattr(kind, "__call__", partial_method(kind.__call__, **few))
    names: dict[str, Any] = {}
    exec(compile(code, "card", "exec"), names)
    assert names["image"].size == (SIDE, SIDE)
    assert isinstance(names["pipeline"], kind)
    assert any(".lora_A." in key for key in names["pipeline"].transformer.state_dict())


def partial_method(call: Any, **more: Any) -> Any:
    return lambda pipeline, *given, **named: call(pipeline, *given, **named, **more)


def test_every_such_family_is_there() -> None:
    assert len(BASES) == len(DENOISERS)
