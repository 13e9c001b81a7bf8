"""The settings of the captioner."""

from nsync_pipeline.captions.config import CaptioningConfig, CaptionModelConfig
from nsync_pipeline.params import parse_params


def parsed(captioning: object) -> CaptioningConfig:
    return parse_params(
        {
            "styles": {"hills": {"source": "folder"}},
            "variants": {"lora": {"update_rule": "none"}},
            "captioning": captioning,
        }
    ).captioning


def test_the_default_model_is_pinned_and_another_is_not_pinned_to_its_commit() -> None:
    default = parsed({}).model
    assert default is not None
    assert default.revision is not None
    other = parsed({"model": {"name": "somebody/other"}}).model
    assert other is not None
    assert other.revision is None


def test_null_switches_the_model_off() -> None:
    assert parsed({"model": None}).model is None


def test_the_question_says_the_number_of_words() -> None:
    assert "at most 12 words" in CaptionModelConfig(max_words=12).asked
    assert CaptionModelConfig(question="What {is} it?").asked == "What {is} it?"
