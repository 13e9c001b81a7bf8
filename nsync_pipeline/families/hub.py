"""What can go wrong with the hub, said once: what it was, and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

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
