"""A diffusers pipeline from the hub: downloaded once, and only what is used."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download

from nsync_pipeline.families.hub import hub_errors

INDEX = "model_index.json"
WEIGHTS = ("model.safetensors", "diffusion_pytorch_model.safetensors")
"""The weight files of a component that are loaded: never another precision."""

PICKLES = ("pytorch_model.bin", "diffusion_pytorch_model.bin")


def is_hub_id(name: str) -> bool:
    """Whether ``name`` can be a hub id, ``organisation/model``."""
    return name.count("/") == 1 and not name.startswith(("/", ".", "~"))


def downloaded(
    name: str,
    revision: str | None,
    components: Sequence[str],
    setting: str,
    weights: bool = True,
    pickles: bool = False,
) -> Path:
    """The snapshot of a hub model in the local cache; its folder's name is the commit.

    Args:
        name: the hub id.
        revision: a commit, tag or branch; the newest where None.
        components: the subfolders that are needed; none: the index alone.
        setting: which setting names the model, for the messages.
        weights: whether their weights are needed too, or only settings and vocabularies.
        pickles: whether weights may be pickled.

    Raises:
        BaseModelError: there is no such model, it cannot be reached, or it asks for an agreement
            first.
    """
    patterns = [INDEX]
    files = (WEIGHTS + PICKLES if pickles else WEIGHTS) if weights else ()
    for component in components:
        patterns += [f"{component}/*.json", f"{component}/*.txt", f"{component}/*.model"]
        for file in files:
            stem, ending = file.rsplit(".", 1)
            patterns += [f"{component}/{file}", f"{component}/{stem}-*-of-*.{ending}"]
    where = f"{setting}: {name!r}" + (f" at revision {revision!r}" if revision else "")
    with hub_errors(where, name):
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=patterns, ignore_patterns=["*.fp16*"]
            )
        )
