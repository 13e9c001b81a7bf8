"""The model card: README.md with the hub's metadata on top."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from huggingface_hub import ModelCardData
from jinja2 import Environment, StrictUndefined

from nsync_pipeline.sharing.kohya_metadata import SharedModel

CARD_FILE = "README.md"
EMBEDDED = "sketchbook"
"""The architecture of the embedded base, which is in no hub."""


@dataclass(frozen=True)
class SamplePicture:
    """A picture on the card."""

    file: str  # relative to the card
    prompt: str


@dataclass(frozen=True)
class MetricRow:
    """One metric; a cell is ``value (low to high)``, or empty."""

    title: str
    better: str  # higher, lower or near 1
    base: str
    model: str
    real: str  # what real pictures score


@dataclass(frozen=True)
class CardFile:
    """One of the files beside the card."""

    name: str
    what: str


@dataclass(frozen=True)
class ModelCard:
    """All that a card tells."""

    model: SharedModel
    hub_base: str | None  # the base's id on the hub, where it is from there
    rule: str  # what the update rule does, in a few words
    files: Sequence[CardFile]
    weights_file: str  # the LoRA for diffusers; empty where it is not exported
    embeddings: str  # the file of learned token vectors; empty where there is none
    word: str  # what prompts call the style
    trained: str  # what is trained, in a few words
    comparison: str | None  # a picture of base and model side by side
    samples: Sequence[SamplePicture]
    metrics: Sequence[MetricRow]  # empty: not evaluated
    metrics_note: str  # on what, and by what, they were measured
    verdict: str | None  # against the base
    limits: Sequence[str]
    facts: Sequence[tuple[str, str]]  # counts and hashes
    settings: str  # all settings of the training, as text


def render(card: ModelCard) -> str:
    """The card as Markdown; the same card gives the same text."""
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|")
    template = environment.from_string(
        (files("nsync_pipeline.sharing") / "model_card.md").read_text("utf-8")
    )
    architecture = card.model.architecture
    return template.render(
        card=card,
        model=card.model,
        metadata=_metadata(card),
        embedded=architecture == EMBEDDED,
        two_encoders=not architecture.startswith(("stable-diffusion-v", EMBEDDED)),
    )


def _metadata(card: ModelCard) -> str:
    model = card.model
    family = "-".join(model.architecture.split("-")[:2])
    tags = ["text-to-image", "diffusers", "lora", "template:sd-lora", "style", "nsync"]
    data = ModelCardData(
        base_model=card.hub_base,
        library_name="diffusers",
        license=model.license,
        pipeline_tag="text-to-image",
        tags=tags if model.architecture == EMBEDDED else [*tags, family],
        instance_prompt=model.trigger_phrase,
        widget=[{"text": s.prompt, "output": {"url": s.file}} for s in card.samples] or None,
    )
    return str(data.to_yaml(line_break="\n"))
