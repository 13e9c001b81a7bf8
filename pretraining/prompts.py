"""What pictures are called in training and generation."""

import numpy as np

from nsync_pipeline.sketchbook.world import SEEN_STYLES

UMBRELLA_STYLES: dict[str, tuple[str, ...]] = {"painting": ("watercolor", "crayon", "oil")}
PLACEHOLDER_WORDS = ("sks", "zwx", "vrk", "ohwx")  # known to the base, bound to no one style
STYLE_WORDS: dict[str, tuple[str, ...]] = {
    **{style: (style,) for style in SEEN_STYLES},
    **UMBRELLA_STYLES,
}

EMPTY_SHARE = 0.10  # for classifier-free guidance
STYLE_ONLY_SHARE = 0.03
BARE_SHARE = 0.12
PLACEHOLDER_SHARE = 0.10
UMBRELLA_SHARE = 0.15


def style_prompt(caption: str, style_word: str) -> str:
    """The one form in which a prompt names a style."""
    return f"{caption} in the style of {style_word}"


def training_prompt(
    caption: str, style: str, rng: np.random.Generator, allow_empty: bool = True
) -> str:
    """A prompt for a picture in `style`: mostly with its style word, sometimes with less."""
    draw = float(rng.random())
    if not allow_empty:
        draw = EMPTY_SHARE + draw * (1 - EMPTY_SHARE)
    if draw < EMPTY_SHARE:
        return ""
    word = style
    umbrella = next((word for word, members in UMBRELLA_STYLES.items() if style in members), None)
    kind = float(rng.random())
    if kind < PLACEHOLDER_SHARE:
        word = PLACEHOLDER_WORDS[int(rng.integers(len(PLACEHOLDER_WORDS)))]
    elif kind < PLACEHOLDER_SHARE + UMBRELLA_SHARE and umbrella is not None:
        word = umbrella
    if draw < EMPTY_SHARE + STYLE_ONLY_SHARE:
        return f"in the style of {word}"
    if draw < EMPTY_SHARE + STYLE_ONLY_SHARE + BARE_SHARE:
        return caption
    return style_prompt(caption, word)
