"""Pictures without a caption, tagged by a tiny image classifier in the real stage."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from nsync_pipeline.captions import stage as captions
from nsync_pipeline.captions.config import CaptionsSettings, TaggerConfig
from nsync_pipeline.captions.tagger import Tagger, chosen_tags
from nsync_pipeline.errors import BaseModelError, CaptionError
from nsync_pipeline.params import parse_params
from nsync_pipeline.pictures.manifest import CAPTIONS, STYLE_SET, read_manifest, write_manifest
from nsync_pipeline.workspace import MANIFEST_FILE, Workspace
from tests.support.contexts import stage_context

LABELS = ("rating:safe", "red_house", "general:tree", "^_^", "oil_painting", "snow")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of six labels, of large random weights."""
    folder = tmp_path_factory.mktemp("tagger")
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=16, patch_size=8, id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )  # fmt: skip
    torch.manual_seed(0)
    model = ViTForImageClassification(config)
    with torch.no_grad():
        model.classifier.weight.normal_(0, 2)
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def test_the_surest_labels_are_the_tags_as_words() -> None:
    scores = (0.99, 0.5, 0.9, 0.6, 0.4, 0.1)
    config = TaggerConfig(name="x")
    assert chosen_tags(LABELS, scores, config) == ("tree", "^_^", "red house", "oil painting")
    fewer = TaggerConfig(name="x", threshold=0.45, most=2, without=())
    assert chosen_tags(LABELS, scores, fewer) == ("rating:safe", "tree")
    assert chosen_tags(LABELS, scores, TaggerConfig(name="x", threshold=1.0)) == ()


@pytest.mark.parametrize("scores", ["sigmoid", "softmax"])
def test_a_picture_is_tagged_by_what_the_model_says_of_it_alone(tagger: Path, scores: Any) -> None:
    """By transformers' own model and processor, and whatever pictures are beside it."""
    config = TaggerConfig(name=str(tagger), threshold=0.2, scores=scores, without=())
    pictures = [Image.effect_noise((40, 30), spread).convert("RGB") for spread in (20, 90)]
    loaded = Tagger(tagger, config, CPU, torch.float32)
    together = loaded.tags(pictures)
    assert together == [*loaded.tags(pictures[:1]), *loaded.tags(pictures[1:])]
    model = ViTForImageClassification.from_pretrained(tagger)
    processor = ViTImageProcessor.from_pretrained(tagger)
    with torch.no_grad():
        logits = model(**processor(images=pictures[0], return_tensors="pt")).logits[0]
    found = torch.sigmoid(logits) if scores == "sigmoid" else torch.softmax(logits, 0)
    assert together[0] == ", ".join(chosen_tags(LABELS, found.tolist(), config))


def context(root: Path, base: Path, tagger: dict[str, Any]) -> Any:
    params = parse_params(
        {
            "base_model": {"name": str(base), "device": "cpu"},
            "styles": {"hills": {"source": "folder"}},
            "variants": {"lora": {"update_rule": "none"}},
            "captioning": {"tagger": tagger, "suffix": "detailed"},
        }
    )
    return stage_context(CaptionsSettings, Workspace(root), params, "hills")


def test_the_stage_takes_tags_for_pictures_without_a_caption(
    tmp_path: Path, tiny_base: Path, tagger: Path
) -> None:
    images = Workspace(tmp_path).style_set("hills") / "images"
    images.mkdir(parents=True)
    rows = []
    for number, caption in enumerate(("a boat", None)):
        Image.effect_noise((64, 48), 30 + 60 * number).convert("RGB").save(images / f"{number}.png")
        rows.append(
            {
                "id": f"{number:016x}", "file": f"images/{number}.png", "sha256": f"{number}" * 64,
                "width": 64, "height": 48, "caption": caption,
                "caption_source": caption and "txt", "split": "train", "origin": f"{number}.png",
            }
        )  # fmt: skip
    write_manifest(Workspace(tmp_path).style_set("hills") / MANIFEST_FILE, rows, STYLE_SET)
    asked = {"name": str(tagger), "threshold": 0.0}
    result = captions.run(context(tmp_path, tiny_base, asked))
    written, tagged = read_manifest(Workspace(tmp_path).captions("hills") / MANIFEST_FILE, CAPTIONS)
    assert (written["caption"], written["source"]) == ("a boat, detailed", "txt")
    tags = tagged["caption"].split(", ")
    assert sorted(tags) == sorted(["red house", "tree", "^_^", "snow", "detailed"])
    assert tagged["removed_words"] == ["oil painting"]
    assert (tagged["source"], result.figures["by_the_model"]) == ("model", 1)
    with pytest.raises(CaptionError, match=r"sure of nothing on 1 pictures \(1\.png\): lower"):
        captions.run(context(tmp_path, tiny_base, asked | {"threshold": 1.0}))


def test_what_is_no_tagger_is_refused_with_what_to_do(
    tmp_path: Path, tagger: Path, tiny_base: Path
) -> None:
    config = TaggerConfig(name="x")
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    with pytest.raises(BaseModelError, match="holds an ONNX model, which is not read: name"):
        Tagger(tmp_path, config, CPU, torch.float32)
    with pytest.raises(BaseModelError, match="which names nothing that pictures show"):
        Tagger(tiny_base / "text_encoder", config, CPU, torch.float32)
    unnamed = tmp_path / "unnamed"
    ViTForImageClassification(
        ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            image_size=16, patch_size=8, num_labels=3,
        )
    ).save_pretrained(unnamed)  # fmt: skip
    ViTImageProcessor().save_pretrained(unnamed)
    with pytest.raises(BaseModelError, match="does not say what its labels are called"):
        Tagger(unnamed, config, CPU, torch.float32)
