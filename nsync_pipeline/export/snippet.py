"""The code on a model card: how to draw with what is shared, in diffusers."""

from dataclasses import dataclass

from nsync_pipeline.export.kohya import SharedModel
from nsync_pipeline.families.checkpoint_file import ALONE
from nsync_pipeline.families.clip_tokenizers import placeholder_tokens
from nsync_pipeline.families.loading import FAMILIES

PIPELINES = {
    "stable-diffusion-v": "StableDiffusionPipeline",
    "stable-diffusion-xl": "StableDiffusionXLPipeline",
    "stable-diffusion-3": "StableDiffusion3Pipeline",
}
"""By how the architecture begins."""
DENOISERS = {family.architecture: family for family in (FAMILIES[k.family] for k in ALONE.values())}
"""The families of which a single file is the denoiser alone, by architecture."""
UNETS = ("sketchbook", "stable-diffusion-v", "stable-diffusion-xl")
"""How the architectures begin whose denoiser is a UNet."""
CHECKPOINTS = (".safetensors", ".ckpt", ".pt", ".pth")


@dataclass(frozen=True)
class Shared:
    """What is in the folder, and how it was trained."""

    base: str  # a hub id, or the name of a folder or file
    embedded: bool  # the base is nsync-pipeline's own
    weights: str  # the LoRA's file for diffusers; empty: none
    embeddings: str  # the file of token vectors; empty: none
    word: str  # that they are for
    vectors: int  # of a text encoder
    zero_terminal_snr: bool
    prompt: str


def snippet(model: SharedModel, shared: Shared) -> str:
    """Python that draws ``shared.prompt``; every text of others is in it as a literal."""
    third = model.architecture.startswith("stable-diffusion-3")
    two = third or model.architecture.startswith("stable-diffusion-xl")
    single = shared.base.lower().endswith(CHECKPOINTS)
    kind = "AutoPipelineForText2Image"
    alone = DENOISERS.get(model.architecture)
    if single and alone is None:
        kind = next(k for start, k in PIPELINES.items() if model.architecture.startswith(start))
    lines = []
    if shared.embeddings and two:
        lines.append("from safetensors.torch import load_file")
    if shared.embedded:
        lines.append("from nsync_pipeline.sketchbook import PIPELINE_FOLDER")
    base = "PIPELINE_FOLDER" if shared.embedded else repr(shared.base)
    if single and alone is not None:
        denoiser, rest = alone.denoiser_class.__name__, alone.base_id
        lines += [
            f"from diffusers import {kind}, {denoiser}",
            "",
            f"transformer = {denoiser}.from_single_file(",
            f'    {base}, config={rest!r}, subfolder="transformer"',
            ")",
            f"pipeline = {kind}.from_pretrained({rest!r}, transformer=transformer)",
        ]
    else:
        lines += [
            f"from diffusers import {kind}",
            "",
            f"pipeline = {kind}.from_{'single_file' if single else 'pretrained'}({base})",
        ]
    if shared.zero_terminal_snr:
        lines += [
            "pipeline.scheduler = type(pipeline.scheduler).from_config(",
            "    pipeline.scheduler.config, rescale_betas_zero_snr=True, "
            'timestep_spacing="trailing"',
            ")",
        ]
    if shared.weights and model.lora is not None and model.lora.kind == "lokr":
        unet = model.architecture.startswith(UNETS)
        denoiser = "unet" if unet else "transformer"
        lines += [
            f"pipeline.{denoiser}.load_lora_adapter(",
            f'    ".", weight_name={shared.weights!r}, prefix="{denoiser}"',
            ")",
        ]
    elif shared.weights:
        lines.append(f'pipeline.load_lora_weights(".", weight_name={shared.weights!r})')
    asked = repr(shared.prompt)
    if shared.embeddings and not two:
        lines.append(f"pipeline.load_textual_inversion({shared.embeddings!r})")
    elif shared.embeddings:
        lines += _two_encoders(shared, third)
        if third:  # its pipeline does not write words out, and T5 reads them as they are
            asked = f"prompt.replace({shared.word!r}, ' '.join(tokens)), prompt_3=prompt"
    if asked.startswith("prompt."):
        lines.append(f"prompt = {shared.prompt!r}")
    if alone is not None:  # the first thing that FLUX.2's pipeline takes is a picture
        asked = f"prompt={asked}"
    lines.append(f"image = pipeline({asked}).images[0]")
    return "\n".join(lines)


def _two_encoders(shared: Shared, third: bool) -> list[str]:
    lines = [f"vectors = load_file({shared.embeddings!r})"]
    if third:
        lines.append(f"tokens = {list(placeholder_tokens(shared.word, shared.vectors))!r}")
    lines += [
        "for key, encoder, tokenizer in (",
        '    ("clip_l", pipeline.text_encoder, pipeline.tokenizer),',
        '    ("clip_g", pipeline.text_encoder_2, pipeline.tokenizer_2),',
        "):",
    ]
    if third:
        return [
            *lines,
            "    tokenizer.add_tokens(tokens)",
            "    table = encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)",
            "    numbers = tokenizer.convert_tokens_to_ids(tokens)",
            "    table.weight.data[numbers] = vectors[key].to(table.weight)",
        ]
    return [
        *lines,
        "    pipeline.load_textual_inversion(",
        f"        vectors[key], token={shared.word!r}, text_encoder=encoder, tokenizer=tokenizer",
        "    )",
    ]
