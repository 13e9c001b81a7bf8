"""What kind of model a family is, in the words of the model specification.

Source: https://github.com/Stability-AI/ModelSpec, "modelspec.architecture".
"""

from nsync_pipeline.families.family import Family

SD2_WIDTH = 1024
"""Of the text encoder of Stable Diffusion 2; that of 1 has 768."""


def architecture_of(family: Family) -> str:
    """The id of the architecture that ``family`` belongs to."""
    if family.embedded:
        return "sketchbook"
    if family.denoiser_prefix == "transformer":
        return "stable-diffusion-3"
    if len(family.text_encoders) == 2:
        return "stable-diffusion-xl-v1-base"
    if family.text_encoders[0].config.hidden_size != SD2_WIDTH:
        return "stable-diffusion-v1"
    predicts_v = family.noise_schedule.prediction_type == "v_prediction"
    return "stable-diffusion-v2-768-v" if predicts_v else "stable-diffusion-v2-512"
