"""Saved diffusers pipelines as the single files their authors released: the same weights."""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
UNET = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}  # fmt: skip
VAE = {
    "mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0.group_norm": "mid.attn_1.norm",
    "mid_block.attentions.0.to_q": "mid.attn_1.q", "mid_block.attentions.0.to_k": "mid.attn_1.k",
    "mid_block.attentions.0.to_v": "mid.attn_1.v",
    "mid_block.attentions.0.to_out.0": "mid.attn_1.proj_out",
    "conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut", ".resnets.": ".block.",
    "downsamplers.0": "downsample", "upsamplers.0": "upsample", "down_blocks": "down",
}  # fmt: skip
OPEN_CLIP = {
    "encoder.layers.": "transformer.resblocks.", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj",
    "final_layer_norm": "ln_final", "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
}  # fmt: skip
MMDIT = {
    "pos_embed.pos_embed": "pos_embed", "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "proj_out": "final_layer.linear", "norm_out.linear": "final_layer.adaLN_modulation.1",
}  # fmt: skip
MMDIT_BLOCK = {
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "ff.net.0.proj": "x_block.mlp.fc1", "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1", "ff_context.net.2": "context_block.mlp.fc2",
    "attn.to_out.0": "x_block.attn.proj", "attn.to_add_out": "context_block.attn.proj",
    "attn.norm_q": "x_block.attn.ln_q", "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q", "attn.norm_added_k": "context_block.attn.ln_k",
    "attn2.to_out.0": "x_block.attn2.proj",
    "attn2.norm_q": "x_block.attn2.ln_q", "attn2.norm_k": "x_block.attn2.ln_k",
}  # fmt: skip


def save_original_v1(pipeline: Path, file: Path) -> Path:
    """``file`` as Stable Diffusion 1 was released, of the pipeline saved in ``pipeline``."""
    clip = _weights(pipeline, "text_encoder")
    return _save(
        file,
        _prefixed("model.diffusion_model.", _unet(_weights(pipeline, "unet"))),
        _prefixed("first_stage_model.", _vae(_weights(pipeline, "vae"))),
        _prefixed("cond_stage_model.transformer.text_model.", clip),
    )


def save_original_xl(pipeline: Path, file: Path) -> Path:
    """``file`` as Stable Diffusion XL was released."""
    clip = _weights(pipeline, "text_encoder")
    return _save(
        file,
        _prefixed("model.diffusion_model.", _unet(_weights(pipeline, "unet"))),
        _prefixed("first_stage_model.", _vae(_weights(pipeline, "vae"))),
        _prefixed("conditioner.embedders.0.transformer.text_model.", clip),
        _prefixed(
            "conditioner.embedders.1.model.", _open_clip(_weights(pipeline, "text_encoder_2"))
        ),
    )


def save_original_3(pipeline: Path, file: Path) -> Path:
    """``file`` as Stable Diffusion 3 medium was released, with T5 where the pipeline has it.

    CLIP-L is released without its projection, which the model does not use apart: it is one.
    """
    clip = _weights(pipeline, "text_encoder")
    clip = {n: w for n, w in clip.items() if n != "text_projection.weight"}
    parts = [
        _prefixed("model.diffusion_model.", _mmdit(_weights(pipeline, "transformer"))),
        _prefixed("first_stage_model.", _vae(_weights(pipeline, "vae"))),
        _prefixed("text_encoders.clip_l.transformer.", clip),
        _prefixed("text_encoders.clip_g.transformer.", _weights(pipeline, "text_encoder_2")),
    ]
    if (pipeline / "text_encoder_3").is_dir():
        t5 = _weights(pipeline, "text_encoder_3")
        parts.append(_prefixed("text_encoders.t5xxl.transformer.", t5))
    return _save(file, *parts)


def _unet(weights: Tensors) -> Tensors:
    """Input and output blocks are numbered through, resnets, attentions and scalings in order."""
    names = dict(UNET)
    for side, other in (("down", "input"), ("up", "output")):
        number = 1 if side == "down" else 0
        for block in range(_count(weights, f"{side}_blocks.")):
            place = f"{side}_blocks.{block}"
            for layer in range(_count(weights, f"{place}.resnets.")):
                names[f"{place}.resnets.{layer}"] = f"{other}_blocks.{number}.0"
                names[f"{place}.attentions.{layer}"] = f"{other}_blocks.{number}.1"
                number += 1
            if side == "down":
                names[f"{place}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
                number += any(name.startswith(f"{place}.downsamplers") for name in weights)
            else:
                attends = any(name.startswith(f"{place}.attentions") for name in weights)
                names[f"{place}.upsamplers.0.conv"] = (
                    f"output_blocks.{number - 1}.{2 if attends else 1}.conv"
                )
    found = {}
    for name, weight in weights.items():
        old = next(old for old in names if name.startswith(f"{old}."))
        rest = name.removeprefix(f"{old}.")
        if ".resnets." in old:
            part, _, last = rest.rpartition(".")
            rest = f"{RESNET[part]}.{last}"
        found[f"{names[old]}.{rest}"] = weight
    return found


def _vae(weights: Tensors) -> Tensors:
    """The attention is of convolutions of one pixel; the decoder's blocks count the other way."""
    ups = _count(weights, "decoder.up_blocks.")
    found = {}
    for name, weight in weights.items():
        attends = "mid_block.attentions" in name and weight.ndim == 2
        for old, new in VAE.items():
            name = name.replace(old, new)
        for block in range(ups):
            name = name.replace(f"up_blocks.{block}.", f"up.{ups - 1 - block}.")
        found[name] = weight[:, :, None, None] if attends else weight
    return found


def _open_clip(weights: Tensors) -> Tensors:
    """Queries, keys and values are one matrix; the projection is multiplied from the right."""
    found = {}
    for name, weight in weights.items():
        name = name.removeprefix("text_model.")
        if name == "text_projection.weight":
            found["text_projection"] = weight.T.contiguous()
        elif ".q_proj." in name:
            parts = [weight] + [
                weights[f"text_model.{name.replace('.q_proj.', f'.{part}_proj.')}"] for part in "kv"
            ]
            layer, _, last = name.partition(".self_attn.q_proj.")
            layer = layer.replace("encoder.layers.", "transformer.resblocks.")
            found[f"{layer}.attn.in_proj_{last}"] = torch.cat(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            for old, new in OPEN_CLIP.items():
                name = name.replace(old, new)
            found[name] = weight
    return found


def _mmdit(weights: Tensors) -> Tensors:
    """Queries, keys and values are one matrix; the last norms give shift before scale."""
    last = _count(weights, "transformer_blocks.") - 1
    found = {}
    for name, weight in weights.items():
        swapped = name.startswith(("norm_out.", f"transformer_blocks.{last}.norm1_context."))
        if swapped:
            weight = torch.cat(weight.chunk(2)[::-1])
        if name.startswith("transformer_blocks."):
            _, block, rest = name.split(".", 2)
            for place, (first, *others) in {
                "x_block.attn": ("attn.to_q.", "attn.to_k.", "attn.to_v."),
                "x_block.attn2": ("attn2.to_q.", "attn2.to_k.", "attn2.to_v."),
                "context_block.attn": ("attn.add_q_proj.", "attn.add_k_proj.", "attn.add_v_proj."),
            }.items():
                if rest.startswith(first):
                    same = [weights[name.replace(first, other)] for other in others]
                    kind = rest.removeprefix(first)
                    found[f"joint_blocks.{block}.{place}.qkv.{kind}"] = torch.cat([weight, *same])
            layer, _, kind = rest.rpartition(".")
            if layer in MMDIT_BLOCK:
                found[f"joint_blocks.{block}.{MMDIT_BLOCK[layer]}.{kind}"] = weight
        else:
            for old, new in MMDIT.items():
                name = name.replace(old, new)
            found[name] = weight
    return found


def _weights(pipeline: Path, component: str) -> Tensors:
    (file,) = (pipeline / component).glob("*.safetensors")
    return load_file(file)


def _count(names: Iterable[str], prefix: str) -> int:
    numbers = {name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)}
    return len(numbers)


def _prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {f"{prefix}{name}": tensor.contiguous() for name, tensor in tensors.items()}


def _save(file: Path, *parts: Tensors) -> Path:
    whole = {name: tensor for part in parts for name, tensor in part.items()}
    save_file(whole, file)
    return file


FLUX_2 = {
    "x_embedder": "img_in", "context_embedder": "txt_in", "proj_out": "final_layer.linear",
    "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
    "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
    "single_stream_modulation.linear": "single_stream_modulation.lin",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "attn.norm_added_q.weight": "txt_attn.norm.query_norm.scale",
    "attn.norm_added_k.weight": "txt_attn.norm.key_norm.scale",
    "attn.to_qkv_mlp_proj": "linear1", "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj", "ff.linear_in": "img_mlp.0", "ff.linear_out": "img_mlp.2",
    "ff_context.linear_in": "txt_mlp.0", "ff_context.linear_out": "txt_mlp.2",
}  # fmt: skip
Z_IMAGE = {
    "all_final_layer.2-1.": "final_layer.", "all_x_embedder.2-1.": "x_embedder.",
    "attention.norm_k": "attention.k_norm", "attention.norm_q": "attention.q_norm",
    "attention.to_out.0": "attention.out",
}  # fmt: skip
KREA_2 = {
    "img_in.": "first.", "time_embed.linear_1": "tmlp.0", "time_embed.linear_2": "tmlp.2",
    "time_mod_proj": "tproj.1", "txt_in.norm.weight": "txtmlp.0.scale",
    "txt_in.linear_1": "txtmlp.1", "txt_in.linear_2": "txtmlp.3", "text_fusion.": "txtfusion.",
    "transformer_blocks.": "blocks.", "final_layer.linear": "last.linear",
    "final_layer.norm.weight": "last.norm.scale",
    "final_layer.scale_shift_table": "last.modulation.lin", "to_q.": "wq.", "to_k.": "wk.",
    "to_v.": "wv.", "to_out.0.": "wo.", "to_gate.": "gate.",
    "attn.norm_q.weight": "attn.qknorm.qnorm.scale",
    "attn.norm_k.weight": "attn.qknorm.knorm.scale", ".ff.": ".mlp.",
    "norm1.weight": "prenorm.scale", "norm2.weight": "postnorm.scale",
    "scale_shift_table": "mod.lin",
}  # fmt: skip


def save_original_denoiser(pipeline: Path, file: Path) -> Path:
    """``file`` as the denoiser of a Z-Image, FLUX.2, Qwen-Image or Krea 2 is shared by itself.

    With the beginning of the keys that ComfyUI writes.
    """
    folder = pipeline / "transformer"
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    kind = json.loads((folder / "config.json").read_text())["_class_name"]
    names = {
        "Flux2Transformer2DModel": FLUX_2,
        "ZImageTransformer2DModel": Z_IMAGE,
        "Krea2Transformer2DModel": KREA_2,
    }.get(kind, {})
    written: Tensors = {}
    for key in list(tensors):
        tensor, new = tensors[key], key
        for triple, whole in _in_one(kind, key).items():
            if key.endswith(f"{triple[0]}.weight"):
                parts = [tensors[key.replace(triple[0], other)] for other in triple]
                tensor, new = torch.cat(parts), key.replace(triple[0], whole)
            elif any(key.endswith(f"{other}.weight") for other in triple[1:]):
                new = ""
        if not new:
            continue
        if kind == "Flux2Transformer2DModel":
            new = new.replace("single_transformer_blocks.", "single_blocks.")
            new = new.replace("transformer_blocks.", "double_blocks.")
            if "single_blocks" in new:
                new = new.replace("attn.to_out.", "linear2.").replace("attn.norm_", "norm.norm_")
            else:
                new = new.replace("attn.norm_q", "img_attn.norm.norm_q")
                new = new.replace("attn.norm_k", "img_attn.norm.norm_k")
            new = new.replace("norm_q.weight", "query_norm.scale")
            new = new.replace("norm_k.weight", "key_norm.scale")
            if key.startswith("norm_out.linear"):
                tensor = torch.cat(tensor.chunk(2)[::-1])
        for ours, theirs in names.items():
            new = new.replace(ours, theirs)
        if new.endswith("mod.lin"):
            tensor = tensor.flatten()
        written[f"model.diffusion_model.{new}"] = tensor.contiguous()
    save_file(written, file)
    return file


def _in_one(kind: str, key: str) -> dict[tuple[str, str, str], str]:
    """Layers that are one in the original."""
    if kind == "ZImageTransformer2DModel":
        return {("attention.to_q", "attention.to_k", "attention.to_v"): "attention.qkv"}
    if kind == "Flux2Transformer2DModel":
        return {
            ("attn.to_q", "attn.to_k", "attn.to_v"): "img_attn.qkv",
            ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"): "txt_attn.qkv",
        }
    return {}
