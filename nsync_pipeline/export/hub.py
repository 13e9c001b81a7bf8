"""An export on the hub: a repository of its own, private unless it is asked to be public."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from nsync_pipeline.errors import UserError
from nsync_pipeline.export.folder import RECORD_FILE
from nsync_pipeline.families.pipeline_folder import is_hub_id, offline_without_a_network

LOG_IN = "log in by `hf auth login`, or set HF_TOKEN, to a token that may write"


@dataclass(frozen=True)
class Pushed:
    url: str
    is_new: bool  # the repository was made; another keeps being as private as it was


def push(folder: Path, files: Sequence[str], repo: str, *, public: bool = False) -> Pushed:
    """Upload the ``files`` of the export in ``folder`` to ``repo``, in one commit.

    A repository that is there must hold an earlier export; its other files stay.

    Raises:
        UserError: ``repo`` is no name, or taken; the hub is not reached, or does not let it in.
    """
    if not is_hub_id(repo):
        raise _not_pushed(folder, repo, "name whose it is, too, as in organisation/model")
    if get_token() is None:
        raise _not_pushed(folder, repo, f"there is no token: {LOG_IN}")
    api = HfApi()
    try:
        with offline_without_a_network():
            is_new = _made(api, repo, public)
            if not is_new and not api.file_exists(repo, RECORD_FILE):
                raise _not_pushed(
                    folder, repo, f"it is taken, and holds no export ({RECORD_FILE}): name another"
                )
            done = api.upload_folder(
                repo_id=repo, folder_path=folder, allow_patterns=list(files),
                commit_message="Export of nsync-pipeline",
            )  # fmt: skip
    except HFValidationError as error:
        raise _not_pushed(folder, repo, f"it is no name on the hub: {error}") from error
    except HfHubHTTPError as error:
        raise _not_pushed(folder, repo, _refusal(error)) from error
    except UserError:
        raise
    except Exception as error:  # the hub's client lets its HTTP library's own errors through
        reason = " ".join(str(error).split())[:200]
        raise _not_pushed(folder, repo, f"the hub cannot be reached ({reason})") from error
    return Pushed(str(done.repo_url), is_new)


def _made(api: HfApi, repo: str, public: bool) -> bool:
    """Make the repository; False where it is there."""
    try:
        api.create_repo(repo, private=not public)
    except HfHubHTTPError as error:
        if error.response.status_code != 409:
            raise
        return False
    return True


def _refusal(error: HfHubHTTPError) -> str:
    said = " ".join(str(error.server_message or error).split())[:200]
    if error.response.status_code == 401:
        return f"the hub does not know the token: {LOG_IN}"
    if error.response.status_code == 403:
        return f"the token may not write there ({said}): {LOG_IN}, or name another owner"
    return f"the hub refused it: {said}"


def _not_pushed(folder: Path, repo: str, why: str) -> UserError:
    return UserError(f"{repo} was not pushed, {folder} is written: {why}")
