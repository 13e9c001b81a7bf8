"""Token vectors of a style's own: how they start, what they touch, and where their file loads."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from nsync_pipeline.adaptation.config import LoraSettings, TextualInversionSettings
from nsync_pipeline.adaptation.lora import has_lora
from nsync_pipeline.adaptation.textual_inversion import (
    TokenVectors,
    has_token_vectors,
    prompt_tokens,
    style_word,
    trained_style_word,
)
from nsync_pipeline.adaptation.trainables import (
    add_trainables,
    load_trained,
    remove_trained,
    save_trained,
)
from nsync_pipeline.adaptation.trained_weights import TrainedWeights
from nsync_pipeline.errors import BaseModelError, MissingArtifactError, TrainingError
from nsync_pipeline.families.family import Family
from nsync_pipeline.seeding import torch_stream
from nsync_pipeline.workspace import EMBEDDINGS_FILE, LORA_FILE
from tests.support.adapted import moved
from tests.support.diffusers_pictures import our_pictures, pipeline_of, their_pictures
from tests.support.tiny_models import save_tiny_stable_diffusion_3, save_tiny_stable_diffusion_xl
from tests.support.tiny_style import tiny_family

ONE = TextualInversionSettings(vectors=1)
THREE = TextualInversionSettings(vectors=3, initializer="red painting", noise=0.5)
PROMPTS = ["a red house in the style of <sks>", "a tree, <sks>, on sand"]
ORIGIN = {"base_model": "tiny", "base_revision": "sha256:0", "placeholder": "<sks>"}


def has_trained(family: Family) -> bool:
    return has_lora(family) or has_token_vectors(family)


@pytest.fixture(scope="module")
def xl_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_stable_diffusion_xl(tmp_path_factory.mktemp("xl"))


def added(
    family: Family, settings: TextualInversionSettings, lora: LoraSettings | None = None
) -> TrainedWeights:
    return add_trainables(
        family, lora, settings, torch_stream(0, "lora"), placeholder="sks", generic_style="painting"
    )


def row(family: Family, word: str) -> torch.Tensor:
    """The table's vector of a word that is one token."""
    (number,) = family.tokenizers[0](word, add_special_tokens=False).input_ids
    table: Any = family.text_encoders[0].get_input_embeddings()
    return table.weight[number].detach().clone()


@pytest.mark.parametrize(
    ("placeholder", "word"),
    [
        ("sks", "<sks>"),
        ("Monet's lilies", "<monet-s-lilies>"),
        ("<own>", "<own>"),
        ("!", "<style>"),
    ],
)
def test_the_style_gets_a_token_of_its_own(placeholder: str, word: str) -> None:
    assert style_word(placeholder, ONE) == word
    assert style_word(placeholder, None) == placeholder


def test_one_vector_starts_from_the_mean_of_its_words(family: Family) -> None:
    mean = (row(family, "red") + row(family, "painting")) / 2
    trained = added(family, TextualInversionSettings(vectors=1, initializer="red painting"))
    assert trained.names == ("text_encoder.token_vectors",)
    assert trained.groups == ("embedding",)
    torch.testing.assert_close(trained.weights[0], mean[None])


def test_the_generic_style_is_the_initializer_where_none_is_given(family: Family) -> None:
    start = row(family, "painting")
    torch.testing.assert_close(added(family, ONE).weights[0], start[None])


def test_more_vectors_start_token_by_token_and_then_from_the_mean_and_noise(
    family: Family,
) -> None:
    """Noise is relative to the mean: half of its root mean square here, within chance."""
    red, painting = row(family, "red"), row(family, "painting")
    mean = (red + painting) / 2
    vectors = added(family, THREE).weights[0].detach()
    torch.testing.assert_close(vectors[:2], torch.stack([red, painting]))
    noise = (vectors[2] - mean).square().mean().sqrt() / mean.square().mean().sqrt()
    assert 0.3 < float(noise) < 0.8
    remove_trained(family)
    assert torch.equal(added(family, THREE).weights[0], vectors)


def test_a_prompt_is_encoded_as_with_the_initializer_at_the_start(family: Family) -> None:
    expected = family.encode_prompts(["a house in the style of painting"]).tokens
    other = family.encode_prompts(["a house"]).tokens
    added(family, ONE)
    # The end token's number is above all of CLIP's own, and so not above the added ones: the
    # hidden states do not depend on it.
    found = family.encode_prompts(["a house in the style of <sks>"]).tokens
    torch.testing.assert_close(found, expected)
    assert torch.equal(family.encode_prompts(["a house"]).tokens, other)


def test_gradients_reach_the_vectors_and_not_the_table(family: Family) -> None:
    trained = added(family, THREE)
    family.embed_prompts(PROMPTS).tokens.square().sum().backward()
    vectors = trained.weights[0]
    assert vectors.grad is not None
    assert all(float(g.abs().max()) > 0 for g in vectors.grad)
    table = family.text_encoders[0].get_input_embeddings()
    assert isinstance(table, TokenVectors)
    assert not table.weight.requires_grad
    assert table.weight.grad is None
    vectors.grad = None
    family.embed_prompts(["a house"]).tokens.sum().backward()
    assert vectors.grad is None or not vectors.grad.any()


def test_tokens_of_several_vectors_are_counted(family: Family) -> None:
    """``a red house in the style of`` has 7 tokens."""
    before = prompt_tokens(family, PROMPTS[0], "<sks>", THREE)
    added(family, THREE)
    assert family.prompt_tokens(PROMPTS[0]) == before == 10


def test_taking_them_off_leaves_the_base_and_its_tokenizer(family: Family) -> None:
    before = family.encode_prompts(PROMPTS).tokens
    size = len(family.tokenizers[0])
    added(family, THREE, LoraSettings(rank=2, text_encoder=True))
    assert len(family.tokenizers[0]) == size + 3
    assert has_trained(family)
    remove_trained(family)
    assert len(family.tokenizers[0]) == size
    assert torch.equal(family.encode_prompts(PROMPTS).tokens, before)
    assert not has_trained(family)
    assert not any(p.requires_grad for p in family.text_encoders[0].parameters())


@pytest.mark.parametrize("vectors", [1, 3])
@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2, text_encoder=True)])
def test_what_was_trained_comes_back_here_and_in_diffusers(
    family: Family, tiny_base: Path, tmp_path: Path, vectors: int, lora: LoraSettings | None
) -> None:
    """The same prompts, and the same pictures within one of 255 levels, as the pipeline rounds."""
    trained = added(family, TextualInversionSettings(vectors=vectors), lora)
    moved(trained, by=0.1)
    tokens = family.encode_prompts(PROMPTS).tokens
    save_trained(family, trained, tmp_path, ORIGIN)
    assert (tmp_path / LORA_FILE).exists() == (lora is not None)
    remove_trained(family)
    load_trained(family, tmp_path)
    assert torch.equal(family.encode_prompts(PROMPTS).tokens, tokens)
    assert trained_style_word(tmp_path, "sks") == "<sks>"

    pipeline = pipeline_of(tiny_base)
    pipeline.load_textual_inversion(tmp_path, weight_name=EMBEDDINGS_FILE)
    if lora is not None:
        pipeline.load_lora_weights(tmp_path, weight_name=LORA_FILE)
    theirs = their_pictures(pipeline, family, PROMPTS)
    assert np.abs(our_pictures(family, PROMPTS) - theirs).max() <= 1
    remove_trained(family)
    plain = [prompt.replace("<sks>", "painting") for prompt in PROMPTS]
    assert np.abs(our_pictures(family, plain) - theirs).max() > 1


@pytest.mark.parametrize("end_token", [None, 2])
def test_both_text_encoders_of_xl_load_in_diffusers(
    xl_base: Path, tmp_path: Path, end_token: int | None
) -> None:
    """Where the settings call the end token 2, as XL's own do, CLIP pools at the highest number.

    That is the style's then; diffusers does the same.
    """
    if end_token is not None:
        xl_base = shutil.copytree(xl_base, tmp_path / "base")
        file = xl_base / "text_encoder_2" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": end_token}))
    family = tiny_family(xl_base)
    trained = added(family, TextualInversionSettings(vectors=2))
    assert trained.names == ("text_encoder.token_vectors", "text_encoder_2.token_vectors")
    moved(trained, by=0.1)
    save_trained(family, trained, tmp_path, ORIGIN)
    ours = our_pictures(family, PROMPTS)
    remove_trained(family)
    load_trained(family, tmp_path)
    assert np.array_equal(our_pictures(family, PROMPTS), ours)

    pipeline = pipeline_of(xl_base)
    vectors = load_file(tmp_path / EMBEDDINGS_FILE)
    assert set(vectors) == {"clip_l", "clip_g"}
    pipeline.load_textual_inversion(
        vectors["clip_l"], token="<sks>", text_encoder=pipeline.text_encoder,
        tokenizer=pipeline.tokenizer,
    )  # fmt: skip
    pipeline.load_textual_inversion(
        vectors["clip_g"], token="<sks>", text_encoder=pipeline.text_encoder_2,
        tokenizer=pipeline.tokenizer_2,
    )  # fmt: skip
    assert np.abs(ours - their_pictures(pipeline, family, PROMPTS)).max() <= 1


def test_stable_diffusion_3_has_vectors_in_its_clip_encoders(tmp_path: Path) -> None:
    """Its T5 reads the word as it is written; diffusers has no loader for them."""
    family = tiny_family(save_tiny_stable_diffusion_3(tmp_path / "sd3"))
    trained = added(family, TextualInversionSettings(vectors=2))
    assert trained.names == ("text_encoder.token_vectors", "text_encoder_2.token_vectors")
    family.embed_prompts(PROMPTS).tokens.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in trained.weights)
    moved(trained, by=0.1)
    tokens = family.encode_prompts(PROMPTS).tokens
    save_trained(family, trained, tmp_path, ORIGIN)
    remove_trained(family)
    load_trained(family, tmp_path)
    assert torch.equal(family.encode_prompts(PROMPTS).tokens, tokens)


def test_the_same_vectors_have_the_same_bytes(family: Family, tmp_path: Path) -> None:
    trained = added(family, THREE)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save_trained(family, trained, tmp_path / name, ORIGIN)
    files = [(tmp_path / name / EMBEDDINGS_FILE).read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]
    with safe_open(tmp_path / "one" / EMBEDDINGS_FILE, framework="pt") as file:
        assert json.loads(file.metadata()["nsync"]) == ORIGIN
        assert list(file.keys()) == ["<sks>"]
        assert torch.equal(file.get_tensor("<sks>"), trained.weights[0])


def test_a_token_that_the_base_knows_is_refused(family: Family) -> None:
    family.tokenizers[0].add_tokens(["<house>"])
    with pytest.raises(TrainingError, match=r"knows the token '<house>' already"):
        add_trainables(family, None, ONE, torch_stream(0, "lora"), placeholder="house")


def test_an_initializer_without_tokens_is_refused(family: Family) -> None:
    settings = TextualInversionSettings(initializer=" ")
    with pytest.raises(TrainingError, match=r"initializer: .* has no token for ' '"):
        added(family, settings, LoraSettings(rank=2))
    assert not has_trained(family)


def test_vectors_of_another_base_are_refused(family: Family, xl_base: Path, tmp_path: Path) -> None:
    trained = added(family, ONE)
    save_trained(family, trained, tmp_path, ORIGIN)
    with pytest.raises(BaseModelError, match="holds token vectors already"):
        load_trained(family, tmp_path)
    other = tiny_family(xl_base)
    with pytest.raises(BaseModelError, match="does not fit"):
        load_trained(other, tmp_path)
    assert not has_trained(other)


def test_a_folder_without_trained_weights_is_an_error(family: Family, tmp_path: Path) -> None:
    with pytest.raises(MissingArtifactError, match=LORA_FILE):
        load_trained(family, tmp_path)
    (tmp_path / EMBEDDINGS_FILE).write_bytes(b"no safetensors")
    with pytest.raises(MissingArtifactError, match=EMBEDDINGS_FILE):
        load_trained(family, tmp_path)
