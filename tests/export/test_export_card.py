"""The model card: its code runs for every family and kind; texts of others are only texts."""

import ast
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from safetensors import safe_open

from nsync_pipeline.adaptation.trainables import load_trained
from nsync_pipeline.drawing.schedulers import build_scheduler
from nsync_pipeline.export import card as cards
from nsync_pipeline.export.folder import export_model
from nsync_pipeline.export.kohya import SharedModel
from nsync_pipeline.export.snippet import PIPELINES, Shared, snippet
from nsync_pipeline.params import Params
from nsync_pipeline.workspace import EMBEDDINGS_FILE, LORA_FILE, Workspace
from tests.support.diffusers_pictures import SAMPLER, our_pictures, sampler_of
from tests.support.shared_variant import trained_workspace
from tests.support.tiny_models import (
    save_tiny_stable_diffusion,
    save_tiny_stable_diffusion_3,
    save_tiny_stable_diffusion_xl,
)
from tests.support.tiny_style import STYLE, tiny_family

BASES: dict[str, Callable[..., Path]] = {
    "1": save_tiny_stable_diffusion,
    "xl": save_tiny_stable_diffusion_xl,
    "3": save_tiny_stable_diffusion_3,
}
KINDS = {"lora": (LORA_FILE,), "vectors": (EMBEDDINGS_FILE,), "both": (LORA_FILE, EMBEDDINGS_FILE)}


@pytest.fixture(scope="module", params=BASES)
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Workspace, Params]:
    """A base, and a LoRA with two token vectors trained on it for a step."""
    base = BASES[request.param](tmp_path_factory.mktemp("bases") / f"tiny-{request.param}")
    targets = ["to_q", "to_k"]
    workspace, params = trained_workspace(
        tmp_path_factory.mktemp("workspaces") / "workspace", base, drawn=False,
        textual_inversion={"vectors": 2}, lora={"rank": 2, "alpha": 4.0, "targets": targets},
    )  # fmt: skip
    return base, workspace, params


def code_of(folder: Path) -> str:
    text = (folder / "README.md").read_text("utf-8")
    return text.split("```python\n")[1].split("```")[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_code_on_a_card_draws_what_was_trained(
    trained: tuple[Path, Workspace, Params],
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It runs as it is, beside a folder of the base's name; only how it is drawn is set here."""
    base, _, params = trained
    workspace = Workspace(tmp_path / "workspace")
    shutil.copytree(trained[1].root, workspace.root)
    model = workspace.model(STYLE, "nsync", 0)
    for name in {LORA_FILE, EMBEDDINGS_FILE} - set(KINDS[kind]):
        (model / name).unlink()
    folder = tmp_path / "out"
    export_model(workspace, params, STYLE, "nsync", "diffusers", folder)
    family = tiny_family(base)
    load_trained(family, model)
    start = "a house on grass in the style of "
    word = "<sks>" if EMBEDDINGS_FILE in KINDS[kind] else "sks"
    ours = our_pictures(family, [start + word])[0]

    shutil.copytree(base, folder / base.name)
    monkeypatch.chdir(folder)
    pipelines = [getattr(diffusers, name) for name in PIPELINES.values()]
    for pipeline in pipelines:
        drawn = _drawn_like_ours(pipeline.__call__, family)
        monkeypatch.setattr(pipeline, "__call__", drawn)
    names: dict[str, Any] = {}
    exec(compile(code_of(folder), "card", "exec"), names)
    assert np.abs(np.asarray(names["image"]).astype(int) - ours).max() <= 1
    bare = our_pictures(tiny_family(base), [start + word])[0]
    assert np.abs(bare - ours).max() > 1


def _drawn_like_ours(call: Any, family: Any) -> Any:
    def drawn(pipeline: Any, *prompts: Any, **more: Any) -> Any:
        pipeline.scheduler = build_scheduler(family, sampler_of(family))
        return call(
            pipeline, *prompts, **more, generator=torch.Generator().manual_seed(0),
            num_inference_steps=SAMPLER.steps, guidance_scale=SAMPLER.guidance_scale,
            height=family.resolution, width=family.resolution,
        )  # fmt: skip

    return drawn


def test_what_is_said_of_a_transformers_file_names_no_module_that_cannot_read_it(
    trained: tuple[Path, Workspace, Params], tmp_path: Path
) -> None:
    _, workspace, params = trained
    export_model(workspace, params, STYLE, "nsync", "kohya", tmp_path / "out")
    with safe_open(tmp_path / "out" / f"{STYLE}_nsync.safetensors", framework="pt") as file:
        metadata, keys = file.metadata(), set(file.keys())
    kohyas = all(key.startswith("lora_") for key in keys)
    assert ("ss_network_module" in metadata) == kohyas
    assert metadata["modelspec.hash_sha256"] == f"0x{metadata['sshs_model_hash']}"
    vectors = tmp_path / "out" / f"{STYLE}_nsync_embeddings.safetensors"
    with safe_open(vectors, framework="pt") as file:
        assert file.metadata()["modelspec.architecture"].endswith("/textual-inversion")


MODEL = SharedModel(
    title="t", description="d", style="ink", variant="nsync", architecture="stable-diffusion-v1",
    base_model="b", base_revision="r", prediction_type="epsilon", resolution=32,
    trigger_phrase="p", rights=None, license=None, author=None, lora=None, pictures=1,
    batch_size=1, settings={},
)  # fmt: skip
ARCHITECTURES = ("stable-diffusion-v1", "stable-diffusion-xl-v1-base", "stable-diffusion-3")
HOSTILE = (
    '\\" + __import__("os").system("touch F") + "', "'''", "\n```\nimport os\n", "a\\", "{x}",
    "<script>alert(1)</script>", "![x](javascript:alert(1))", "| a | b |\n| - | - |", "`<b>`",
    "```\n<img src=x>\n```", "\r\n<iframe>", "a\u2028<b>", "<!-- ", "[a](http://x)", "&lt;b&gt;",
    "~~~\nimport os", "mine\n---\nlicense: x", "a\n# b\n===", "***",
)  # fmt: skip
texts = st.sampled_from(HOSTILE) | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(texts, texts, texts, st.sampled_from(ARCHITECTURES), st.booleans(), st.integers(0, 2))
def test_texts_of_others_are_literals_in_the_code(
    prompt: str, word: str, base: str, architecture: str, snr: bool, vectors: int
) -> None:
    """Parsed, the code has them as they are, and the statements of any other card."""
    model = replace(MODEL, architecture=architecture)
    own, plain = (
        ast.parse(snippet(model, Shared(b, False, "l", "e" if vectors else "", w, vectors, snr, p)))
        for b, w, p in ((base, word, prompt), ("base", "word", "prompt"))
    )
    if not base.endswith((".safetensors", ".ckpt")):
        assert [type(node) for node in ast.walk(own)] == [type(node) for node in ast.walk(plain)]
    constants = {node.value for node in ast.walk(own) if isinstance(node, ast.Constant)}
    assert {prompt, base} <= constants


def test_a_base_that_is_one_file_is_loaded_as_such() -> None:
    for architecture, name in zip(ARCHITECTURES, PIPELINES.values(), strict=True):
        model = replace(MODEL, architecture=architecture)
        shared = Shared("my.safetensors", False, "l", "", "sks", 0, False, "a house")
        assert f"pipeline = {name}.from_single_file('my.safetensors')\n" in snippet(model, shared)
        assert hasattr(getattr(diffusers, name), "from_single_file")


def test_what_was_trained_to_noise_alone_is_drawn_so() -> None:
    code = snippet(MODEL, Shared("b", False, "l", "", "sks", 0, True, "a house"))
    scheduler = diffusers.EulerDiscreteScheduler(prediction_type="v_prediction")
    lines = code[code.index("pipeline.scheduler =") : code.index("pipeline.load_lora")]
    names = {"pipeline": SimpleNamespace(scheduler=scheduler)}
    exec(lines, names)
    config = names["pipeline"].scheduler.config
    assert (config.rescale_betas_zero_snr, config.timestep_spacing) == (True, "trailing")


@pytest.fixture(scope="module")
def card(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a card is rendered from."""
    workspace, params = trained_workspace(
        tmp_path_factory.mktemp("workspace"), tiny_base, drawn=False
    )
    found: list[dict[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nsync_pipeline.export.folder.render", lambda c: found.append(c) or "card")
        export_model(workspace, params, STYLE, "nsync", "diffusers", tmp_path_factory.mktemp("o"))
    return found[0]


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(data=st.data())
def test_texts_of_others_are_only_words_on_the_card(
    card: dict[str, Any], data: st.DataObject
) -> None:
    """A reader of CommonMark and tables finds no HTML, link, picture or code in them."""
    said = {name: data.draw(texts) for name in ("rights", "trigger_phrase", "base_model", "title")}
    prompt = data.draw(texts)
    model = replace(card["model"], **said)
    shared = Shared("b", False, "l", "", "sks", 0, False, prompt)
    changed = {
        **card, "model": model, "hub_base": None, "snippet": snippet(model, shared),
        "settings": data.draw(texts), "facts": {"seed": data.draw(texts)},
    }  # fmt: skip
    body = cards.render(changed).split("---\n", 2)[2]
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    flat = [t for token in tokens for t in (token, *(token.children or ()))]
    html = [token.content for token in flat if token.type in ("html_block", "html_inline")]
    assert all(h.strip() in DETAILS for h in html), html
    assert not [t.type for t in flat if t.type in ("link_open", "image", "hr")]
    assert [t.tag for t in flat if t.type == "heading_open"] == ["h1", *["h2"] * 6]
    blocks = [token.content for token in flat if token.type == "fence"]
    assert len(blocks) == 2
    ast.parse(blocks[0])


DETAILS = ("<details><summary>All settings</summary>", "</details>")
