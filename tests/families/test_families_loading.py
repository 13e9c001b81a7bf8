"""Finding and loading a base model: every way it fails is one clear message."""

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families import pipeline_folder
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.families.pipeline_folder import weight_files
from nsync_pipeline.families.prompt_counting import tokenizer_of
from nsync_pipeline.files import file_sha256
from tests.support.original_layout import save_original_v1

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def config_of(name: Path | str, **changes: object) -> BaseModelConfig:
    return BaseModelConfig(name=str(name), device="cpu", **changes)  # type: ignore[arg-type]


@pytest.fixture
def copy(tiny_base: Path, tmp_path: Path) -> Path:
    """The tiny base, to be broken."""
    return Path(shutil.copytree(tiny_base, tmp_path / "copy"))


def test_the_embedded_base_is_found_without_a_path() -> None:
    from nsync_pipeline import sketchbook

    if not (sketchbook.PIPELINE_FOLDER / "model_index.json").is_file():
        pytest.skip("the embedded weights are not in this checkout")
    family = load_family(BaseModelConfig(device="cpu"))
    assert family.embedded
    assert family.name == "sketchbook"
    assert family.revision.startswith("sha256:")


def test_revision_of_a_folder_is_of_its_content_not_its_place(tiny_base: Path, copy: Path) -> None:
    original = load_family(config_of(tiny_base))
    assert load_family(config_of(copy)).revision == original.revision
    (copy / "README.md").write_text("not part of the model")
    assert load_family(config_of(copy)).revision == original.revision
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["conv_in.bias"] = tensors["conv_in.bias"] + 1
    save_file(tensors, weights, metadata={"format": "pt"})
    assert load_family(config_of(copy)).revision != original.revision
    assert len(original.revision) == len("sha256:") + 16
    assert not original.embedded


@pytest.fixture
def hashed(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[str]]:
    """A base whose files count as large and were written an hour ago; and what is hashed."""
    calls: list[str] = []

    def recorded(path: Path) -> str:
        calls.append(path.name)
        return file_sha256(path)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(pipeline_folder, "REMEMBERED_FROM", 1)
    monkeypatch.setattr(pipeline_folder, "file_sha256", recorded)
    for path in copy.rglob("*"):
        os.utime(path, (time.time() - 3600,) * 2)
    return copy, calls


def test_a_base_is_hashed_once(hashed: tuple[Path, list[str]]) -> None:
    base, calls = hashed
    revision = load_family(config_of(base)).revision
    assert "diffusion_pytorch_model.safetensors" in calls
    calls.clear()
    assert load_family(config_of(base)).revision == revision
    assert calls == []


@pytest.mark.parametrize("keeps", ["its place", "its time", "its place, and all but a nanosecond"])
def test_a_changed_file_changes_the_revision(hashed: tuple[Path, list[str]], keeps: str) -> None:
    """One byte of the weights, in a file as long; at the same time where it was copied over with
    its time kept; in the same file, where only the time tells."""
    base, _ = hashed
    revision = load_family(config_of(base)).revision
    weights = base / "unet" / "diffusion_pytorch_model.safetensors"
    content, before = bytearray(weights.read_bytes()), weights.stat()
    content[-1] ^= 1
    if keeps == "its time":
        (base / "other").write_bytes(content)
        (base / "other").replace(weights)
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        weights.write_bytes(content)
        if keeps != "its place":
            os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert load_family(config_of(base)).revision != revision


def test_a_file_that_was_just_written_is_not_remembered(hashed: tuple[Path, list[str]]) -> None:
    """It may be written again before the file system's clock goes on."""
    base, calls = hashed
    weights = base / "unet" / "diffusion_pytorch_model.safetensors"
    os.utime(weights)
    for _ in range(2):
        load_family(config_of(base))
    assert calls.count(weights.name) == 3  # the VAE's file has the same name


@pytest.mark.parametrize("name", ["/nowhere/model", "./missing", "no-slash", "a/b/c"])
def test_missing_folder_says_what_is_allowed(name: str) -> None:
    with pytest.raises(BaseModelError, match=r"not a folder that exists.*sketchbook.*hub id"):
        load_family(config_of(name))


def test_folder_without_an_index_is_not_a_pipeline(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(BaseModelError, match=r"not a diffusers pipeline.*model_index\.json"):
        load_family(config_of(tmp_path))


def test_broken_index_is_named(copy: Path) -> None:
    (copy / "model_index.json").write_text('{"_class_name": ')
    with pytest.raises(BaseModelError, match=r"model_index\.json cannot be read"):
        load_family(config_of(copy))


@pytest.mark.parametrize(
    ("component", "entry", "message"),
    [
        ("vae", ["diffusers", "VQModel"], "its vae is VQModel"),
        ("text_encoder", ["evil", "remote_code.Model"], "its text_encoder is remote_code.Model"),
        ("unet", [None, None], "its unet is None"),
        (
            "scheduler",
            ["diffusers", "NoSuchScheduler"],
            "is NoSuchScheduler, and diffusers .* has no such",
        ),
        ("scheduler", ["diffusers", "UNet2DModel"], "is UNet2DModel, and diffusers .* has no such"),
    ],
)
def test_foreign_component_is_refused(
    copy: Path, component: str, entry: list[str | None], message: str
) -> None:
    index = json.loads((copy / "model_index.json").read_text())
    index[component] = entry
    (copy / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(BaseModelError, match=message):
        load_family(config_of(copy))


def test_pickled_weights_are_never_read(copy: Path) -> None:
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(BaseModelError, match=r"unet has only pickled weights \(diff"):
        load_family(config_of(copy))


def test_a_folder_as_older_libraries_wrote_it_loads_the_same(tiny_base: Path, copy: Path) -> None:
    """As Stable Diffusion 1.5 is published: other weight names, a vocabulary in two files."""
    weights = copy / "text_encoder" / "model.safetensors"
    named = {f"text_model.{name}": tensor for name, tensor in load_file(weights).items()}
    named["text_model.embeddings.position_ids"] = torch.arange(32)[None]
    save_file(named, weights, metadata={"format": "pt"})
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    renamed = {}
    for name, tensor in load_file(weights).items():
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        part = next((part for part in old if f"attentions.0.{part}." in name), None)
        renamed[name.replace(part, old[part]) if part else name] = tensor
    save_file(renamed, weights, metadata={"format": "pt"})
    whole = copy / "tokenizer" / "tokenizer.json"
    model = json.loads(whole.read_text())["model"]
    (copy / "tokenizer" / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (copy / "tokenizer" / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    whole.unlink()

    old_one, new_one = load_family(config_of(copy)), load_family(config_of(tiny_base))
    prompts = ["a red house in the style of sks", "zq! 5"]
    pixels = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    expected = new_one.encode_prompts(prompts).tokens
    assert torch.equal(old_one.encode_prompts(prompts).tokens, expected)
    assert torch.equal(old_one.encode_pictures(pixels), new_one.encode_pictures(pixels))
    assert old_one.prompt_tokens("a red house zq") == 5


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_truncated_weights_are_named(copy: Path, component: str) -> None:
    weights = next((copy / component).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(BaseModelError, match=f"{component} cannot be loaded"):
        load_family(config_of(copy))


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_missing_weights_are_not_made_up(copy: Path, component: str) -> None:
    weights = next((copy / component).glob("*.safetensors"))
    tensors = load_file(weights)
    gone = max(tensors)
    del tensors[gone]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match=rf"{component} lacks 1 weights, the first is .*"):
        load_family(config_of(copy))


def test_missing_tokenizer_is_named(copy: Path) -> None:
    shutil.rmtree(copy / "tokenizer")
    with pytest.raises(BaseModelError, match=r"tokenizer has none of tokenizer\.json"):
        tokenizer_of(config_of(copy))


def test_unknown_prediction_type_is_refused(copy: Path) -> None:
    settings = copy / "scheduler" / "scheduler_config.json"
    settings.write_text(settings.read_text().replace('"epsilon"', '"sample"'))
    with pytest.raises(BaseModelError, match="predicts 'sample'; taken are epsilon"):
        load_family(config_of(copy))


def test_resolution_that_latents_cannot_cover_is_refused(tmp_path: Path, copy: Path) -> None:
    """Five VAE levels are 2^4 = 16 pixels a latent; 40 is no multiple of it."""
    from diffusers import AutoencoderKL

    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 5,
        up_block_types=("UpDecoderBlock2D",) * 5,
        block_out_channels=(4,) * 5,
        norm_num_groups=2,
        latent_channels=4,
    ).save_pretrained(copy / "vae")
    with pytest.raises(BaseModelError, match="40 is not a multiple of the 16 pixels"):
        load_family(config_of(copy, resolution=40))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_device_that_is_not_there_is_refused(tiny_base: Path) -> None:
    with pytest.raises(BaseModelError, match=r"base_model\.device: cuda"):
        load_family(BaseModelConfig(name=str(tiny_base), device="cuda"))


@dataclass
class Hub:
    """A small model hub on this machine, with one model: ``studio/tiny``."""

    folder: Path
    server: ThreadingHTTPServer | None = None
    requested: list[str] = field(default_factory=list)

    def start(self) -> str:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = self.path.split("?")[0]
                if path.startswith("/api/models/studio/gated"):
                    self.answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
                elif path.startswith("/api/models/studio/tiny/revision/none"):
                    self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                elif not path.startswith(("/api/models/studio/tiny", "/studio/tiny/resolve/")):
                    self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
                elif "/tree/" in path:
                    files = [p for p in sorted(hub.folder.rglob("*")) if p.is_file()]
                    tree = [
                        {
                            "type": "file",
                            "path": file.relative_to(hub.folder).as_posix(),
                            "size": file.stat().st_size,
                            "oid": "0" * 40,
                        }
                        for file in files
                    ]
                    self.answer(200, json.dumps(tree).encode(), {})
                elif path.startswith("/api/"):
                    info = {"id": "studio/tiny", "sha": COMMIT, "siblings": []}
                    self.answer(200, json.dumps(info).encode(), {})
                else:
                    name = path.split(f"/resolve/{COMMIT}/")[1]
                    hub.requested.append(name)
                    body = (hub.folder / name).read_bytes()
                    etag = {"ETag": f'"{name.replace("/", "-")}"', "X-Repo-Commit": COMMIT}
                    self.answer(200, body, etag)

            def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def stop(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None


@pytest.fixture
def hub(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub, running, with an empty local cache."""
    for extra in (
        "unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.bin",
        "safety_checker/model.safetensors", "v1-5-pruned.safetensors",
    ):  # fmt: skip
        (copy / extra).parent.mkdir(exist_ok=True)
        (copy / extra).write_bytes(b"not to be downloaded")
    hub = Hub(copy)
    endpoint = hub.start()
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield hub
    hub.stop()


def test_hub_model_is_pinned_downloaded_sparingly_and_kept(
    hub: Hub, tiny_base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "nsync_pipeline"):
        family = load_family(config_of("studio/tiny"))
    assert f"revision: {COMMIT}" in caplog.text  # unpinned: what to pin is said
    assert (family.name, family.revision) == ("studio/tiny", COMMIT)
    local = load_family(config_of(tiny_base))
    for name, weight in local.denoiser.state_dict().items():
        assert torch.equal(family.denoiser.state_dict()[name], weight)
    weights = {name for name in hub.requested if name.endswith((".safetensors", ".bin"))}
    assert weights == {
        "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    }  # fmt: skip

    hub.stop()
    caplog.clear()
    again = load_family(
        config_of("studio/tiny", revision=COMMIT)
    )  # from the cache, with no network
    assert again.revision == COMMIT
    assert caplog.text == ""


def in_halves(folder: Path, half: str) -> None:
    """As some are published: no weights but those in float16, or bfloat16."""
    for component in ("unet", "vae", "text_encoder"):
        for file in folder.glob(f"{component}/*.safetensors"):
            if file.name not in pipeline_folder.WEIGHTS:
                continue
            tensors = {key: tensor.to(HALVES[half]) for key, tensor in load_file(file).items()}
            file.unlink()
            save_file(tensors, file.with_suffix(f".{half}.safetensors"), metadata={"format": "pt"})


HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@pytest.mark.parametrize(("of_hub", "half"), [(False, "fp16"), (True, "fp16"), (False, "bf16")])
def test_a_model_in_halves_alone_is_loaded(
    copy: Path, tiny_base: Path, of_hub: bool, half: str, request: pytest.FixtureRequest
) -> None:
    if of_hub:
        request.getfixturevalue("hub")
    in_halves(copy, half)
    family = load_family(config_of("studio/tiny" if of_hub else copy))
    for key, weight in load_family(config_of(tiny_base)).denoiser.state_dict().items():
        assert torch.equal(family.denoiser.state_dict()[key], weight.to(HALVES[half]).float())


def test_halves_in_shards_are_found_as_older_libraries_named_them(
    copy: Path, tiny_base: Path
) -> None:
    unet = copy / "unet"
    model: Any = load_family(config_of(tiny_base)).denoiser
    model.half()
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    model.save_pretrained(unet, variant="fp16", max_shard_size="30KB")
    index = unet / "diffusion_pytorch_model.safetensors.index.fp16.json"
    text = index.read_text()
    for file in unet.glob("*.fp16-*-of-*.safetensors"):
        stem, number = file.stem.split(".fp16")
        file.rename(unet / f"{stem}{number}.fp16.safetensors")
        text = text.replace(file.name, f"{stem}{number}.fp16.safetensors")
    index.write_text(text)
    assert len(weight_files(unet, "fp16")) > 1
    assert weight_files(unet) == []
    family = load_family(config_of(copy))
    for key, weight in model.state_dict().items():
        assert torch.equal(family.denoiser.state_dict()[key], weight.float())


def test_pickled_weights_are_downloaded_only_where_they_are_allowed(hub: Hub) -> None:
    """And safetensors are what is read of a component that has both."""
    load_family(config_of("studio/tiny"))
    assert not [name for name in hub.requested if name.endswith(".bin")]
    load_family(config_of("studio/tiny", allow_pickle=True))
    assert "unet/diffusion_pytorch_model.bin" in hub.requested


def test_a_checkpoints_settings_come_from_the_hub_without_weights(
    hub: Hub, tiny_base: Path, tmp_path: Path
) -> None:
    file = save_original_v1(tiny_base, tmp_path / "one.safetensors")
    family = load_family(config_of(file, config="studio/tiny"))
    assert family.revision.startswith("sha256:")
    assert not [name for name in hub.requested if name.endswith((".safetensors", ".bin"))]
    hub.stop()
    with pytest.raises(BaseModelError, match=r"base_model\.config: 'stable-diffusion-v1-5/.*cache"):
        load_family(config_of(file))


def test_tokens_are_counted_without_downloading_weights(hub: Hub) -> None:
    assert tokenizer_of(config_of("studio/tiny")).prompt_tokens("a red house") == 3
    assert not [name for name in hub.requested if name.endswith(".safetensors")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "studio/gated"}, r"gated: accept its terms.*HF_TOKEN"),
        ({"name": "studio/unknown"}, r"neither a folder here nor a model on the hub"),
        ({"name": "studio/tiny", "revision": "none"}, r"no such revision"),
    ],
)
def test_what_the_hub_refuses_is_explained(hub: Hub, changes: dict[str, str], message: str) -> None:
    with pytest.raises(BaseModelError, match=message):
        load_family(BaseModelConfig(device="cpu", **changes))  # type: ignore[arg-type]


def test_no_network_and_nothing_in_the_cache_is_explained(hub: Hub) -> None:
    hub.stop()
    with pytest.raises(
        BaseModelError, match="not in the local cache, and the hub cannot be reached"
    ):
        load_family(config_of("studio/tiny"))


def test_offline_mode_is_honoured(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BaseModelError, match="not in the local cache"):
        load_family(config_of("studio/tiny"))
    assert hub.requested == []
