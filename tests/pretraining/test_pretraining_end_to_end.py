"""Pretraining end to end at a tiny size, interrupted and not, and what it leaves behind."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pretraining import clip, judges, unet, vae
from pretraining.__main__ import Stage, pretrain
from pretraining.checkpoint import State, load_checkpoint, save_checkpoint
from pretraining.growth import grow
from pretraining.settings import (
    ClipSettings,
    DataSettings,
    JudgeSettings,
    PretrainingSettings,
    UnetSettings,
    VaeSettings,
)
from pretraining.unet import build_unet

TINY = PretrainingSettings(
    checkpoint_every=2,
    data=DataSettings(world_pictures=12, abstract_pictures=4, judged_pictures=20),
    vae=VaeSettings(
        latent_channels=4,
        width=8,
        encoder_blocks=(1, 1, 1),
        decoder_blocks=(1, 1, 1),
        steps=4,
        batch=4,
    ),
    clip=ClipSettings(width=16, layers=1, heads=2, feed_forward=16, projection=8, steps=4, batch=4),
    unet=UnetSettings(channels=(16, 16, 16), heads=2, steps=4, batch=4),
    judges=JudgeSettings(width=4, steps=4, batch=4),
)


class _Killed(BaseException):
    """Stands for the end of the process: nothing of the training may catch it."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread_and_no_mlflow() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pretraining.training_log._open_run", lambda *_: None)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    pretrain(output=folder / "weights", work=folder / "work", settings=TINY)
    return folder / "weights"


def test_resumed_after_a_kill_equals_unbroken(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed_after_saving(path: Path, state: State) -> None:
        save_checkpoint(path, state)
        if state.get("step") == 2:
            raise _Killed

    for stage, room in (
        (Stage.VAE, vae),
        (Stage.CLIP, clip),
        (Stage.JUDGES, judges),
        (Stage.UNET, unet),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(room, "save_checkpoint", killed_after_saving)
            with pytest.raises(_Killed):
                pretrain(tmp_path / "weights", stage, work=tmp_path / "work", settings=TINY)
        pretrain(tmp_path / "weights", stage, resume=True, work=tmp_path / "work", settings=TINY)

    files = sorted(path.relative_to(unbroken) for path in unbroken.rglob("*.safetensors"))
    assert len(files) == 6  # vae, unet, text encoder; clip; two judges
    for file in files:
        expected, found = load_file(unbroken / file), load_file(tmp_path / "weights" / file)
        assert expected.keys() == found.keys()
        for name, weight in expected.items():
            assert torch.equal(weight, found[name]), f"{file}: {name}"


def test_pipeline_loads_in_diffusers_and_makes_a_picture(unbroken: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(unbroken / "pipeline", local_files_only=True)
    assert {pipeline.unet.dtype, pipeline.vae.dtype, pipeline.text_encoder.dtype} == {torch.float32}
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a red cat", num_inference_steps=2, guidance_scale=3.0).images[0]
    assert image.size == (128, 128)


def test_clip_loads_with_tokenizer_and_preprocessing(unbroken: Path) -> None:
    from PIL import Image
    from transformers import CLIPModel, CLIPProcessor

    model = CLIPModel.from_pretrained(unbroken / "clip", local_files_only=True)
    processor = CLIPProcessor.from_pretrained(unbroken / "clip", local_files_only=True)
    batch = processor(
        text=["a red cat"], images=Image.new("RGB", (180, 128), "white"), return_tensors="pt"
    )
    assert batch["pixel_values"].shape == (1, 3, 128, 128)
    assert batch["pixel_values"].max().item() == pytest.approx(1.0)
    assert model(**batch).logits_per_image.shape == (1, 1)


def test_unet_without_its_predecessors_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--stage vae"):
        pretrain(tmp_path / "weights", Stage.UNET, work=tmp_path / "work", settings=TINY)


def test_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "vae.pt", {"settings": "width 8", "step": 1})
    with pytest.raises(ValueError, match="other settings"):
        load_checkpoint(tmp_path / "vae.pt", "width 9", resume=True)
    assert load_checkpoint(tmp_path / "vae.pt", "width 9", resume=False) is None


def test_a_denoiser_begins_where_a_smaller_one_ended() -> None:
    smaller = build_unet(TINY)
    larger = build_unet(
        TINY.model_copy(update={"unet": TINY.unet.model_copy(update={"channels": (16,) * 4})})
    )
    grow(larger, smaller)
    was, now = smaller.state_dict(), larger.state_dict()
    for part in ("mid_block.resnets.0.conv1.weight", "up_blocks.0.resnets.0.conv2.bias"):
        assert torch.equal(now[part], was[part])
    level = "down_blocks.{}.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    assert torch.equal(now[level.format(3)], was[level.format(2)])
    assert not torch.equal(now["conv_in.weight"], was["conv_in.weight"])
