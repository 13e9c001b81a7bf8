"""What the prompts of a variant call its style: the one place that decides it.

LoRA takes the placeholder as it is, a word the text encoder may know. Textual inversion trains a
token of its own, which must not be one of the vocabulary: ``sks`` becomes ``<sks>``.
"""

import re
from pathlib import Path

from nsync_pipeline.adaptation.config import TextualInversionSettings
from nsync_pipeline.adaptation.safetensors_file import read_metadata
from nsync_pipeline.families.family import Family
from nsync_pipeline.workspace import trained_files

PLACEHOLDER_METADATA = "placeholder"
"""Where the file of token vectors keeps their word."""


def style_word(placeholder: str, textual_inversion: TextualInversionSettings | None) -> str:
    """What prompts of a variant with these settings call the style."""
    if textual_inversion is None:
        return placeholder
    word = re.sub(r"[^\w]+", "-", placeholder.lower()).strip("-")
    return f"<{word or 'style'}>"


def prompt_tokens(
    family: Family, prompt: str, word: str, textual_inversion: TextualInversionSettings | None
) -> int:
    """How many tokens ``prompt`` has for a variant, start and end not counted.

    It may be asked before the variant's own tokens are added: each ``word`` takes one a vector.
    """
    if textual_inversion is None:
        return family.prompt_tokens(prompt)
    others = family.prompt_tokens(prompt.replace(word, " "))
    return others + prompt.count(word) * textual_inversion.vectors


def trained_style_word(place: Path, placeholder: str) -> str:
    """The same, of what was trained: as its file of token vectors says, where there is one.

    ``place`` is a model's folder, or one of its files.

    Raises:
        MissingArtifactError: a file is damaged.
    """
    for file in trained_files(place):
        metadata = read_metadata(file)
        if PLACEHOLDER_METADATA in metadata:
            return metadata[PLACEHOLDER_METADATA]
    return placeholder
