"""Does a picture show what was asked for: CLIP-T."""

from nsync_pipeline.metrics.distances import Floats


def prompt_fidelity(pictures: Floats, captions: Floats) -> Floats:
    """``100 cos(picture_i, caption_i)`` of unit rows (N, d) each: (N,).

    The captions are content only: with the style's phrase in the prompt a picture would be rewarded
    for its style a second time, or for a placeholder the text encoder never saw.

    Raises:
        ValueError: the two do not pair up.
    """
    if pictures.shape != captions.shape:
        raise ValueError(f"pictures {pictures.shape} and captions {captions.shape} do not pair up")
    cosine: Floats = 100.0 * (pictures * captions).sum(axis=1)
    return cosine
