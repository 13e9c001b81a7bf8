"""Errors a user can cause: one message that says what, where, and what to do."""

from collections.abc import Sequence


class UserError(Exception):
    """A mistake in the input or the settings; the command line prints it without a traceback."""

    exit_code = 2


class ParamsError(UserError):
    """``params.yaml`` is not what the schema allows."""


class PictureError(UserError):
    """A picture, or a folder of pictures, cannot be used."""


class CaptionError(UserError):
    """A caption is missing or cannot be used."""


class NotTextError(UserError):
    """What should be text is none; the message goes on after its name."""


class BaseModelError(UserError):
    """The base model cannot be found, loaded, or used for what was asked."""


class MissingArtifactError(UserError):
    """A stage needs what an earlier stage has not made yet."""


class TrainingError(UserError):
    """Training cannot go on: a loss or gradient is not finite, or a checkpoint does not fit."""


class LostProcessError(TrainingError):
    """Another of the processes that train together has ended; why is said there."""

    exit_code = 76


class WorkerError(UserError):
    """One of the processes that were started for a command failed."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ElsewhereError(UserError):
    """Something went wrong on another machine: in the DVC remote, or on a node of a cluster."""


class NotFetchedError(ElsewhereError):
    """What is to be in the DVC remote could not be brought from there."""

    exit_code = 77


class EvaluationError(UserError):
    """The evaluation cannot be done: its extractor cannot be used, or the pictures do not fit."""


class ChoicesError(UserError):
    """A file of blind choices cannot be read, or is about other pictures."""


class WorkspaceBusyError(UserError):
    """Another process is writing the same artefact."""


class InputsChangedError(UserError):
    """The inputs of a stage changed while it ran, so its result must not be recorded."""

    exit_code = 75


LISTED = 20


def bullet_list(items: Sequence[object], most: int = LISTED) -> str:
    """``items`` one a line; those after the first ``most`` are counted."""
    lines = [f"  - {item}" for item in items[:most]]
    if len(items) > most:
        lines.append(f"  - and {len(items) - most} more")
    return "\n".join(lines)


def short_list(items: Sequence[object], most: int = 5) -> str:
    """``items`` in one line; those after the first ``most`` are counted."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(str(item) for item in items[:most]) + more
