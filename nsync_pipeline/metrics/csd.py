"""CSD (Somepalli et al., arXiv 2404.01292): a CLIP vision transformer trained on styles.

Its checkpoints are of OpenAI's code; here they are read into ``CLIPVisionModel``.
"""

from collections.abc import Mapping

from torch import Tensor
from transformers import CLIPVisionConfig

STYLE = "last_layer_style"
CONTENT = "last_layer_content"
HEAD_WIDTH = 64  # of all of OpenAI's vision transformers

_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_TOP = {
    "class_embedding": "embeddings.class_embedding",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}


def vision_config(state: Mapping[str, Tensor]) -> CLIPVisionConfig:
    """The architecture that a checkpoint's shapes say.

    Raises:
        KeyError: a weight that says it is missing.
    """
    width, _, patch, _ = state["backbone.conv1.weight"].shape
    positions = state["backbone.positional_embedding"].shape[0] - 1  # without the class token
    layers = {key.split(".")[3] for key in state if key.startswith("backbone.transformer.")}
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=state["backbone.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        num_hidden_layers=len(layers),
        num_attention_heads=max(1, width // HEAD_WIDTH),
        image_size=round(positions**0.5) * patch,
        patch_size=patch,
        hidden_act="quick_gelu",
    )


def vision_weights(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """A checkpoint's backbone under the names of ``CLIPVisionModel``, each after ``prefix``.

    A key that is not known keeps its name, so that loading the result strictly refuses it.
    """
    weights: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key in (STYLE, CONTENT):
            continue
        name = key.removeprefix("backbone.")
        if name in _TOP:
            weights[prefix + _TOP[name]] = tensor
            continue
        # transformer.resblocks.<layer>.<inside>; anything else is refused by its name.
        layer, _, inside = name.removeprefix("transformer.resblocks.").partition(".")
        place = f"{prefix}encoder.layers.{layer}."
        part, _, kind = inside.rpartition(".")
        if inside in ("attn.in_proj_weight", "attn.in_proj_bias"):
            kind = inside.rsplit("_", 1)[1]
            for which, rows in zip("qkv", tensor.chunk(3), strict=True):
                weights[f"{place}self_attn.{which}_proj.{kind}"] = rows
        elif part in _LAYER:
            weights[f"{place}{_LAYER[part]}.{kind}"] = tensor
        else:
            weights[key] = tensor
    return weights
