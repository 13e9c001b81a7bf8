"""What can go wrong with the hub, said once: what it was, and what to do."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from nsync_pipeline.errors import BaseModelError


@contextmanager
def hub_errors(where: str, name: str) -> Iterator[None]:
    """Make a ``BaseModelError`` of what the hub's client raises.

    Args:
        where: the setting and its value, which the message begins with.
        name: the hub id.
    """
    try:
        yield
    except GatedRepoError as error:
        raise BaseModelError(
            f"{where} is gated: accept its terms at https://huggingface.co/{name}, then log in by "
            "`hf auth login` or set HF_TOKEN."
        ) from error
    except RevisionNotFoundError as error:
        raise BaseModelError(f"{where} does not exist: the hub has no such revision.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise BaseModelError(
            f"{where} is neither a folder here nor a model on the hub (a private one needs "
            "HF_TOKEN)."
        ) from error
    except LocalEntryNotFoundError as error:
        raise BaseModelError(
            f"{where} is not in the local cache, and the hub cannot be reached. Connect once to "
            "download it, or give a local folder."
        ) from error
    except Exception as error:  # the hub's client lets its HTTP library's own errors through
        reason = str(error).strip().split("\n")[0]
        raise BaseModelError(f"{where} could not be downloaded: {reason}") from error


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
