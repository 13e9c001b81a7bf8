"""A base whose schedule ends in noise alone: trained so, and drawn so."""

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler

from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.adaptation.trainables import (
    add_trainables,
    load_trained,
    remove_trained,
    save_trained,
)
from nsync_pipeline.drawing.config import SamplerConfig
from nsync_pipeline.drawing.sampling import PictureRequest, draw_pictures
from nsync_pipeline.drawing.schedulers import build_scheduler
from nsync_pipeline.errors import BaseModelError, TrainingError
from nsync_pipeline.families.noise_schedules import ORIGIN_KEY, use_zero_terminal_snr
from nsync_pipeline.seeding import torch_stream
from tests.support.tiny_models import save_tiny_stable_diffusion
from tests.support.tiny_style import tiny_family


@pytest.fixture(scope="module")
def v_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_stable_diffusion(tmp_path_factory.mktemp("v"), "v_prediction")


def test_the_training_schedule_is_that_of_diffusers_rescaled(v_base: Path) -> None:
    family = tiny_family(v_base)
    use_zero_terminal_snr(family)
    schedule = family.noise_schedule
    theirs = DDIMScheduler.from_config(family.scheduler.config).alphas_cumprod.double()
    torch.testing.assert_close(schedule.signal.square(), theirs, rtol=1e-3, atol=1e-5)
    assert float(schedule.signal[-1]) == 0.0
    assert float(schedule.noise[-1]) == 1.0
    again = family.noise_schedule.signal
    use_zero_terminal_snr(family)
    assert torch.equal(family.noise_schedule.signal, again)


@pytest.mark.parametrize("name", ["dpm", "ddim", "euler", "model"])
def test_every_sampler_draws_from_noise_alone(v_base: Path, name: str) -> None:
    """The first step is at the last timestep, 999, where nothing of the picture is left."""
    family = tiny_family(v_base)
    use_zero_terminal_snr(family)
    sampler = SamplerConfig.model_validate(
        {"scheduler": name, "steps": 4, "guidance_scale": 1.0, "batch_size": 1}
    )
    scheduler = build_scheduler(family, sampler)
    assert int(scheduler.timesteps[0]) == 999
    assert float(scheduler.alphas_cumprod[-1]) < 1e-6
    ((picture,),) = draw_pictures(family, [PictureRequest("a", "a red house", 1)], sampler)
    assert picture.pixels.std() > 0


def test_pndm_cannot_draw_so(v_base: Path) -> None:
    family = tiny_family(v_base)
    use_zero_terminal_snr(family)
    with pytest.raises(BaseModelError, match="take dpm, ddim or euler"):
        build_scheduler(family, SamplerConfig(scheduler="pndm"))


def test_what_was_trained_so_is_drawn_so(v_base: Path, tmp_path: Path) -> None:
    for said, last in (("true", 0.0), ("false", None)):
        family = tiny_family(v_base)
        trained = add_trainables(family, LoraSettings(rank=1), None, torch_stream(0, "lora"))
        folder = tmp_path / said
        folder.mkdir()
        save_trained(family, trained, folder, {ORIGIN_KEY: said})
        fresh = tiny_family(v_base)
        own = float(fresh.noise_schedule.signal[-1])
        load_trained(fresh, folder)
        assert float(fresh.noise_schedule.signal[-1]) == (own if last is None else last)
        remove_trained(fresh)
        assert float(fresh.noise_schedule.signal[-1]) == own
        assert not fresh.scheduler.config.rescale_betas_zero_snr


def test_it_is_refused_for_a_base_that_predicts_noise(tiny_base: Path) -> None:
    with pytest.raises(TrainingError, match=r"only for models that predict v.*predicts epsilon"):
        use_zero_terminal_snr(tiny_family(tiny_base))
