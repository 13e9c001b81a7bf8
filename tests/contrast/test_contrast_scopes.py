"""Which weights are projected as one vector."""

import pytest
import torch

from nsync_pipeline.contrast.config import Scope
from nsync_pipeline.contrast.gram import layout_of, scope_of

LINEAR = "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("name", "block"),
    [
        (f"unet.{LINEAR}.lora_A.weight", "unet.down_blocks.0"),
        ("mid_block.resnets.0.conv1.lora_B.weight", "mid_block"),
        ("transformer.transformer_blocks.23.attn.to_k.lora_A.weight",
         "transformer.transformer_blocks.23"),
        ("text_encoder_2.text_model.encoder.layers.5.mlp.fc1.lora_A.weight",
         "text_encoder_2.text_model.encoder.layers.5"),
        ("unet.conv_in.lora_A.weight", "unet.conv_in"),
        ("text_encoder.sks", "text_encoder.sks"),
    ],
)  # fmt: skip
def test_a_block_is_named_up_to_its_first_number(name: str, block: str) -> None:
    assert scope_of(name, "block") == block


def test_both_factors_of_a_layer_are_a_module() -> None:
    factors = [f"{LINEAR}.lora_A.weight", f"{LINEAR}.lora_B.weight"]
    assert [scope_of(name, "module") for name in factors] == [LINEAR, LINEAR]
    assert [scope_of(name, "tensor") for name in factors] == factors
    assert scope_of("text_encoder.sks", "module") == "text_encoder.sks"


@pytest.mark.parametrize(
    ("scope", "count"), [("global", 1), ("block", 2), ("module", 3), ("tensor", 4)]
)
def test_every_scope_is_one_stretch_of_the_vector(scope: Scope, count: int) -> None:
    """Also where its weights do not follow each other by name."""
    names = [
        "a.0.x.lora_A.weight", "b.0.x.lora_A.weight", "a.0.x.lora_B.weight",
        "a.0.y.lora_A.weight",
    ]  # fmt: skip
    shapes = [torch.Size([n, 2]) for n in (1, 2, 3, 4)]
    layout = layout_of(names, shapes, scope)
    assert len(layout.scopes) == count
    assert sorted(layout.order) == [0, 1, 2, 3]
    assert layout.size == 20
    assert [piece.start for piece in layout.pieces] == [
        0, *[piece.end for piece in layout.pieces[:-1]]
    ]  # fmt: skip
    if scope == "block":
        assert layout.order == (0, 2, 3, 1)
        assert [(p.scope, p.start, p.end) for p in layout.pieces] == [(0, 0, 16), (1, 16, 20)]
