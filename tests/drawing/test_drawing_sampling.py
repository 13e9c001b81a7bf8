"""Sampling: the diffusers pipeline's picture, from each picture's own seed, whatever its batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from nsync_pipeline.drawing import sampling
from nsync_pipeline.drawing.config import SamplerConfig
from nsync_pipeline.drawing.sampling import PictureRequest, draw_pictures
from nsync_pipeline.drawing.schedulers import build_scheduler
from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.family import Family
from nsync_pipeline.families.loading import load_family
from tests.support.tiny_models import save_tiny_stable_diffusion

REQUESTS = [
    PictureRequest(f"p{number}", prompt, 1000 + number)
    for number, prompt in enumerate(
        ["a red house", "a tree", "a blue boat on water", "a tree", "a fish", "the sun", "a moon"]
    )
]


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_stable_diffusion(tmp_path_factory.mktemp("base"), request.param)


def family_of(folder: Path) -> Family:
    return load_family(BaseModelConfig(name=str(folder), device="cpu"))


def draw(
    family: Family, requests: list[PictureRequest], sampler: SamplerConfig
) -> dict[str, np.ndarray]:
    batches = draw_pictures(family, requests, sampler)
    return {picture.request.id: picture.pixels for batch in batches for picture in batch}


@pytest.mark.parametrize("scheduler", ["model", "dpm", "ddim", "euler", "pndm"])
@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_pictures_are_the_diffusers_pipelines(
    base: Path, scheduler: str, guidance_scale: float
) -> None:
    """Within one of 255 levels: the pipeline rounds the same pixels."""
    family = family_of(base)
    sampler = SamplerConfig(
        scheduler=scheduler,  # type: ignore[arg-type]
        steps=6,
        guidance_scale=guidance_scale,
        batch_size=len(REQUESTS),
    )
    pipeline = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = build_scheduler(family, sampler)
    expected = pipeline(
        [request.prompt for request in REQUESTS],
        generator=[torch.Generator().manual_seed(request.seed) for request in REQUESTS],
        num_inference_steps=sampler.steps,
        guidance_scale=guidance_scale,
    ).images
    drawn = draw(family, REQUESTS, sampler)
    for request, image in zip(REQUESTS, expected, strict=True):
        difference = np.abs(drawn[request.id].astype(int) - np.asarray(image).astype(int))
        assert difference.max() <= 1
        assert drawn[request.id].shape == (32, 32, 3)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_picture_depends_neither_on_its_batch_nor_on_the_threads(
    base: Path, threads: int
) -> None:
    """Bitwise: alone, in another order, with other neighbours, in batches of another size."""
    family = family_of(base)
    sampler = SamplerConfig(steps=5, guidance_scale=4.0, batch_size=4)
    drawn = draw(family, REQUESTS, sampler)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    larger = sampler.model_copy(update={"batch_size": 16})
    try:
        for order in (REQUESTS[::-1], REQUESTS[3:] + REQUESTS[:3], REQUESTS[5:6]):
            for name, pixels in draw(family, order, larger).items():
                assert np.array_equal(pixels, drawn[name]), name
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("alone", [True, False])
def test_nothing_is_drawn_that_is_not_asked_for(
    base: Path, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU one by one, elsewhere in batches, the last of which is smaller.

    Seven pictures, with and without the prompt, are 14 rows of the denoiser a step and 7 of the
    decoder; of six prompts and the empty one each is encoded once.
    """
    family = family_of(base)
    rows: dict[str, list[int]] = {"predict": [], "decode_latents": [], "encode_prompts": []}

    def counted(name: str) -> Callable[..., Any]:
        plain = getattr(family, name)

        def call(first: Any, *rest: Any) -> Any:
            rows[name].append(len(first))
            return plain(first, *rest)

        return call

    for name in rows:
        monkeypatch.setattr(family, name, counted(name))
    monkeypatch.setattr(sampling, "_alone", lambda family: alone)
    draw(family, REQUESTS, SamplerConfig(steps=1, guidance_scale=4.0, batch_size=4))
    by_batch = {"predict": [8, 6], "decode_latents": [4, 3], "encode_prompts": [4, 3]}
    one_by_one = {"predict": [2] * 7, "decode_latents": [1] * 7, "encode_prompts": [1] * 7}
    assert rows == (one_by_one if alone else by_batch)


def test_seed_and_prompt_decide_the_picture(base: Path) -> None:
    family = family_of(base)
    sampler = SamplerConfig(steps=3, guidance_scale=4.0, batch_size=4)
    requests = [
        PictureRequest("one", "a tree", 5), PictureRequest("same", "a tree", 5),
        PictureRequest("other_seed", "a tree", 6), PictureRequest("other_prompt", "a fish", 5),
    ]  # fmt: skip
    drawn = draw(family, requests, sampler)
    assert np.array_equal(drawn["one"], drawn["same"])
    assert not np.array_equal(drawn["one"], drawn["other_seed"])
    assert not np.array_equal(drawn["one"], drawn["other_prompt"])


def test_batches_come_as_they_are_drawn(base: Path) -> None:
    sampler = SamplerConfig(steps=1, batch_size=3)
    sizes = [len(batch) for batch in draw_pictures(family_of(base), REQUESTS, sampler)]
    assert sizes == [3, 3, 1]


def test_pictures_of_any_size_are_drawn_a_size_at_a_time(base: Path) -> None:
    """Heights and widths are the requests'; a square asked for is the square drawn by itself."""
    sizes = [(32, 48), None, (48, 32), (32, 32), (32, 48)]
    requests = [
        PictureRequest(f"p{number}", "a tree", number, size) for number, size in enumerate(sizes)
    ]
    sampler = SamplerConfig(steps=2, guidance_scale=4.0, batch_size=2)
    family = family_of(base)
    batches = [[p.request.id for p in b] for b in draw_pictures(family, requests, sampler)]
    assert batches == [["p0", "p4"], ["p1", "p3"], ["p2"]]
    drawn = draw(family, requests, sampler)
    shapes = {name: pixels.shape for name, pixels in drawn.items()}
    wide, square, tall = (32, 48, 3), (32, 32, 3), (48, 32, 3)
    assert shapes == {"p0": wide, "p1": square, "p2": tall, "p3": square, "p4": wide}
    alone = draw(family, [PictureRequest("p3", "a tree", 3)], sampler)
    assert np.array_equal(drawn["p3"], alone["p3"])


def test_a_wide_picture_is_the_diffusers_pipelines(base: Path) -> None:
    family = family_of(base)
    sampler = SamplerConfig(scheduler="ddim", steps=4, guidance_scale=4.0, batch_size=1)
    pipeline = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = build_scheduler(family, sampler)
    expected = pipeline(
        "a tree", height=32, width=64, generator=torch.Generator().manual_seed(7),
        num_inference_steps=4, guidance_scale=4.0,
    ).images[0]  # fmt: skip
    drawn = draw(family, [PictureRequest("p", "a tree", 7, (32, 64))], sampler)["p"]
    assert np.abs(drawn.astype(int) - np.asarray(expected).astype(int)).max() <= 1


def test_a_size_between_latents_is_refused(base: Path) -> None:
    requests = [PictureRequest("p", "a tree", 7, (32, 42))]
    with pytest.raises(BaseModelError, match=r"picture p: 32x42 pixels .* multiples of the 4"):
        draw(family_of(base), requests, SamplerConfig(steps=1, batch_size=1))


def test_slices_and_prompts_ahead_change_no_picture(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoded by threes and not all at once, prompts encoded a batch ahead and not all before."""
    family = family_of(base)
    sampler = SamplerConfig(steps=2, guidance_scale=4.0, batch_size=4)
    whole = draw(family, REQUESTS, sampler)
    calls: list[int] = []
    decode, encode = family.decode_latents, family.encode_prompts
    monkeypatch.setattr(
        family, "decode_latents", lambda x: (calls.append(len(x)), decode(x))[1], raising=True
    )
    encoded: list[str] = []
    monkeypatch.setattr(family, "encode_prompts", lambda p: (encoded.extend(p), encode(p))[1])
    monkeypatch.setattr(sampling, "PIXELS_A_SLICE", 3 * 32 * 32)
    monkeypatch.setattr(sampling, "PROMPTS_AHEAD", 5)  # rounded down to whole batches: 4
    sliced = draw(family, REQUESTS, sampler)
    assert calls == [1] * 7
    assert encoded == [
        "a red house", "a tree", "a blue boat on water", "", "a fish", "the sun", "a moon", "",
    ]  # fmt: skip
    for name, pixels in whole.items():
        assert np.abs(pixels.astype(int) - sliced[name].astype(int)).max() <= 1


def test_noise_added_on_the_way_is_each_pictures_own(tmp_path: Path) -> None:
    """The model's own DDPM draws noise in every step: it must not depend on the batch either."""
    folder = save_tiny_stable_diffusion(tmp_path)
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("DDIMScheduler", "DDPMScheduler"))
    family = family_of(folder)
    assert type(family.scheduler).__name__ == "DDPMScheduler"
    sampler = SamplerConfig(scheduler="model", steps=4, batch_size=4)
    drawn = draw(family, REQUESTS, sampler)
    for name, pixels in draw(family, REQUESTS[::-1], sampler).items():
        assert np.array_equal(pixels, drawn[name]), name


@pytest.mark.parametrize("name", ["dpm", "ddim", "euler", "pndm"])
def test_schedulers_share_the_models_noise(base: Path, name: str) -> None:
    family = family_of(base)
    scheduler = build_scheduler(family, SamplerConfig(scheduler=name, steps=4))  # type: ignore[arg-type]
    assert scheduler.config.prediction_type == family.noise_schedule.prediction_type
    expected = family.noise_schedule.signal.square().float()
    torch.testing.assert_close(scheduler.alphas_cumprod, expected)


def test_a_picture_that_is_not_finite_is_named(base: Path) -> None:
    family = family_of(base)
    denoiser: Any = family.denoiser
    denoiser.conv_out.bias.data[0] = float("nan")
    with pytest.raises(BaseModelError, match=r"picture p0 came out not finite .*'a red house'"):
        draw(family, REQUESTS, SamplerConfig(steps=2, batch_size=4))


def test_a_black_picture_is_named(base: Path) -> None:
    family = family_of(base)
    last = family.vae.decoder.conv_out  # type: ignore[attr-defined]
    last.weight.data.zero_()
    last.bias.data.fill_(-1.0)
    with pytest.raises(BaseModelError, match=r"picture p0 came out of one flat colour"):
        draw(family, REQUESTS, SamplerConfig(steps=2, batch_size=4))


@pytest.mark.parametrize(
    ("capabilities", "type_"),
    [
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
        ({"avx2": True}, "auto"),
    ],
)
def test_the_type_is_bfloat16_where_the_processor_multiplies_in_it(
    capabilities: dict[str, bool], type_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    here = BaseModelConfig(device="cpu")
    assert SamplerConfig(dtype="auto").base(here).dtype == type_
    assert SamplerConfig().base(here).dtype == "auto"  # only where it is asked for
