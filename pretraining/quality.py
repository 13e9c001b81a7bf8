"""How good the base is: ``python -m pretraining.quality``.

500 fresh prompts are drawn by the base and judged, beside true drawings of the same scenes in
the same styles, and the autoencoder's reconstructions of the held-out styles are judged too.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from nsync_pipeline.sketchbook.folders import WEIGHTS_FOLDER
from nsync_pipeline.sketchbook.judges import Judges, load_judges
from nsync_pipeline.sketchbook.scene import Scene
from nsync_pipeline.sketchbook.verdicts import LABELS, Verdicts
from nsync_pipeline.sketchbook.world import (
    HELD_OUT_STYLES,
    SEEN_STYLES,
    content_scenes,
    draw_given_scene,
    draw_picture,
    picture_scene,
)
from pretraining.card import write_samples_picture
from pretraining.data import WORLD_STREAM
from pretraining.judges import scene_targets
from pretraining.prompts import STYLE_WORDS, UMBRELLA_STYLES, style_prompt
from pretraining.settings import PretrainingSettings
from pretraining.vae import reconstructed

PROMPT_SEED = 77  # of the fresh scenes; no training set is drawn from this stream
NEEDED = {"object": 0.9, "colour": 0.9, "style": 0.95, "held_out": 0.95}
SAMPLING_BATCH = 25


@dataclass(frozen=True)
class Sampling:
    """How the base is asked."""

    steps: int = 20
    guidance: float = 4.0


@dataclass(frozen=True)
class Rates:
    """Shares of what the prompts name that the judges recognise."""

    objects: float  # named objects seen
    colours: float  # named objects seen in the named colour
    places: float
    skies: float
    styles: float  # the asked style, or one of those its umbrella word stands for
    each_style: dict[str, float]


@dataclass(frozen=True)
class Quality:
    """All that the command measures."""

    prompts: int
    sampling: Sampling
    generated: Rates
    unseen_prompts: int  # of them: content in no training caption
    generated_unseen: Rates
    true_drawings: Rates
    object_recall: float  # generated / true drawings
    colour_recall: float
    reconstructions: dict[str, float]  # held-out style -> share recognised
    reconstruction_psnr: dict[str, float]  # every style -> dB
    reached: dict[str, bool]


def measure_quality(
    weights: Path, prompts: int = 500, sampling: Sampling | None = None
) -> tuple[Quality, NDArray[np.uint8], list[str]]:
    """The figures, with the generated pictures (N, 128, 128, 3) and their prompts."""
    sampling = sampling or Sampling()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline = StableDiffusionPipeline.from_pretrained(weights / "pipeline", local_files_only=True)
    pipeline = pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    judges = load_judges(weights / "judges")
    scenes = content_scenes(prompts, PROMPT_SEED)
    words = [list(STYLE_WORDS)[index % len(STYLE_WORDS)] for index in range(prompts)]
    texts = [style_prompt(s.caption, w) for s, w in zip(scenes, words, strict=True)]

    generated = sampled(pipeline, texts, sampling)
    generated_rates = rates(judges.judge(generated), scenes, words)
    unseen = unseen_rows(scenes, PretrainingSettings())
    unseen_rates = rates(
        judges.judge(generated[unseen]), [scenes[i] for i in unseen], [words[i] for i in unseen]
    )
    true_rates = rates(judges.judge(true_drawings(scenes, words)), scenes, words)

    recognised, psnr = reconstruction_figures(pipeline, judges)
    object_recall = generated_rates.objects / true_rates.objects
    colour_recall = generated_rates.colours / true_rates.colours
    quality = Quality(
        prompts=prompts,
        sampling=sampling,
        generated=generated_rates,
        unseen_prompts=len(unseen),
        generated_unseen=unseen_rates,
        true_drawings=true_rates,
        object_recall=object_recall,
        colour_recall=colour_recall,
        reconstructions=recognised,
        reconstruction_psnr=psnr,
        reached={
            "object_recall": object_recall >= NEEDED["object"],
            "colour_recall": colour_recall >= NEEDED["colour"],
            "asked_style": generated_rates.styles >= NEEDED["style"],
            "held_out_reconstructions": min(recognised.values()) >= NEEDED["held_out"],
        },
    )
    return quality, generated, texts


def unseen_rows(scenes: list[Scene], settings: PretrainingSettings) -> list[int]:
    """Which scenes no training picture of these settings shows."""
    indices = range(settings.data.world_pictures)
    trained = {picture_scene(settings.seed, WORLD_STREAM, index) for index in indices}
    return [row for row, scene in enumerate(scenes) if scene not in trained]


def sampled(
    pipeline: StableDiffusionPipeline, prompts: list[str], sampling: Sampling
) -> NDArray[np.uint8]:
    """(N, 128, 128, 3) a picture a prompt; the seed is the prompt's number."""
    pictures = []
    for start in track(range(0, len(prompts), SAMPLING_BATCH), description="sampling"):
        batch = prompts[start : start + SAMPLING_BATCH]
        generators = [torch.Generator().manual_seed(start + i) for i in range(len(batch))]
        images = pipeline(
            batch,
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance,
            generator=generators,
            output_type="np",
        ).images
        pictures.append((images * 255).round().astype(np.uint8))
    return np.concatenate(pictures)


def true_drawings(scenes: list[Scene], words: list[str]) -> NDArray[np.uint8]:
    """(N, 128, 128, 3) the scenes as the world draws them; umbrella words take turns."""
    pictures = []
    for index, (scene, word) in enumerate(zip(scenes, words, strict=True)):
        members = accepted_styles(word)
        style = members[index % len(members)]
        drawn = draw_given_scene(scene, style, PROMPT_SEED, "quality", index)
        pictures.append(np.asarray(drawn.image))
    return np.stack(pictures)


def accepted_styles(word: str) -> tuple[str, ...]:
    """The styles that a style word may be drawn in."""
    return UMBRELLA_STYLES.get(word, (word,))


def rates(verdicts: Verdicts, scenes: list[Scene], words: list[str]) -> Rates:
    """Compare verdicts on N pictures with what the N prompts asked for."""
    presence, colours, places, skies = scene_targets(scenes)
    named = presence > 0
    seen = verdicts.objects[named] > 0.5
    right_colour = verdicts.colours.argmax(axis=-1)[named] == colours[named]
    said = [LABELS["styles"][index] for index in verdicts.styles.argmax(axis=1)]
    right_style = np.array(
        [style in accepted_styles(word) for style, word in zip(said, words, strict=True)]
    )
    asked = np.array(words)
    return Rates(
        objects=float(seen.mean()),
        colours=float((seen & right_colour).mean()),
        places=float((verdicts.places.argmax(axis=1) == places).mean()),
        skies=float((verdicts.skies.argmax(axis=1) == skies).mean()),
        styles=float(right_style.mean()),
        each_style={word: float(right_style[asked == word].mean()) for word in sorted(set(words))},
    )


def reconstruction_figures(
    pipeline: StableDiffusionPipeline, judges: Judges, count: int = 200
) -> tuple[dict[str, float], dict[str, float]]:
    """Held-out styles recognised after the autoencoder, and every style's PSNR in dB."""
    recognised, psnr = {}, {}
    for style in (*SEEN_STYLES, *HELD_OUT_STYLES):
        real = np.stack(
            [
                np.asarray(draw_picture(style, PROMPT_SEED, "reconstruction", index).image)
                for index in range(count)
            ]
        )
        made = reconstructed(pipeline.vae, real)
        errors = ((made.astype(np.float64) - real) ** 2).mean(axis=(1, 2, 3))
        psnr[style] = float((10 * np.log10(255**2 / np.maximum(errors, 1e-9))).mean())
        if style in HELD_OUT_STYLES:
            said = judges.judge(made).styles.argmax(axis=1)
            recognised[style] = float((said == LABELS["styles"].index(style)).mean())
    return recognised, psnr


def main(
    weights: Annotated[Path, typer.Option(help="Folder of the base's weights.")] = WEIGHTS_FOLDER,
    output: Annotated[Path, typer.Option(help="JSON file for the figures.")] = Path(
        "sketchbook_quality.json"
    ),
    grid: Annotated[Path | None, typer.Option(help="PNG file for the grid of samples.")] = None,
    prompts: Annotated[int, typer.Option(min=7, help="Fresh prompts to draw.")] = 500,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = Sampling.steps,
) -> None:
    """Measure the base, print the figures, write them as JSON and the samples as a picture."""
    quality, pictures, texts = measure_quality(weights, prompts, Sampling(steps))
    output.write_text(json.dumps(asdict(quality), indent=2) + "\n")
    if grid is not None:
        write_samples_picture(pictures, texts, list(STYLE_WORDS), grid)
    Console().print(_table(quality))


def _table(quality: Quality) -> Table:
    table = Table("measure", "value", "needed", "reached", title=f"{quality.prompts} fresh prompts")
    needed, reached = NEEDED, quality.reached

    def row(name: str, value: float, need: float, is_reached: bool) -> None:
        table.add_row(name, f"{value:.3f}", f"{need:.2f}", "yes" if is_reached else "NO")

    row(
        "objects, of true drawings'",
        quality.object_recall,
        needed["object"],
        reached["object_recall"],
    )
    row(
        "colours, of true drawings'",
        quality.colour_recall,
        needed["colour"],
        reached["colour_recall"],
    )
    row("asked style", quality.generated.styles, needed["style"], reached["asked_style"])
    for word, share in quality.generated.each_style.items():
        table.add_row(f"  {word}", f"{share:.3f}", "", "")
    for style, share in quality.reconstructions.items():
        row(f"{style} reconstructed", share, needed["held_out"], share >= needed["held_out"])
    unseen = quality.generated_unseen
    said = f"objects {unseen.objects:.3f}, colours {unseen.colours:.3f}, style {unseen.styles:.3f}"
    table.add_row(f"the {quality.unseen_prompts} prompts of unseen content", said, "", "")
    for name, made, true in (
        ("objects", quality.generated.objects, quality.true_drawings.objects),
        ("colours", quality.generated.colours, quality.true_drawings.colours),
        ("places", quality.generated.places, quality.true_drawings.places),
        ("skies", quality.generated.skies, quality.true_drawings.skies),
        ("styles", quality.generated.styles, quality.true_drawings.styles),
    ):
        table.add_row(f"{name}: generated / true drawings", f"{made:.3f} / {true:.3f}", "", "")
    return table


if __name__ == "__main__":
    typer.run(main)
