"""The MLflow server that is told; without one, the workspace's own store, made here."""

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path

from filelock import FileLock

from nsync_pipeline.errors import UserError
from nsync_pipeline.files import whole_file

OWN = ""  # stands for the workspace's own store
OWN_FILES = "/.nsync/mlflow/artifacts"  # how the place of every own store's files ends
PLACES_OF_FILES = {
    "experiments": "artifact_location", "runs": "artifact_uri",
    "logged_models": "artifact_location", "model_versions": "storage_location",
}  # fmt: skip
"""The columns of MLflow's tables that name such places."""


def configured_uri() -> str:
    """``MLFLOW_TRACKING_URI``, or ``OWN``; raises as ``usable_uri`` does."""
    return usable_uri(os.environ.get("MLFLOW_TRACKING_URI", "").strip() or OWN)


def usable_uri(uri: str) -> str:
    """The same ``uri``; raises ``UserError`` for addresses at which nothing would be recorded."""
    if uri in (OWN, "databricks") or ("://" in uri and not uri.startswith("file:")):
        return uri
    raise UserError(
        f"MLflow records nothing at {masked(uri)}: name a server (http://host:5000) or a database "
        "(sqlite:////folder/mlflow.db) in MLFLOW_TRACKING_URI, or unset it: then the runs are in "
        "the workspace's own store"
    )


def is_remote(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def masked(text: str) -> str:
    """``text`` without the user and password of any address in it."""
    text = re.sub(r"://[^\s'\"]*@", "://***@", text)
    text = re.sub(r"(?<![\w/*])[\w.-]+:[^\s'\"/]*@", "***@", text)  # without a scheme
    return re.sub(r"(?i)\b(password|token|secret)=[^&\s'\"]+", r"\1=***", text)


def resolved_uri(uri: str, tracking: Path) -> str:
    """The URI for MLflow; the workspace's own store is made where there is none that is whole."""
    if uri != OWN:
        return uri
    database = tracking.absolute() / "mlflow.db"
    tracking.mkdir(parents=True, exist_ok=True)
    with FileLock(tracking / "store.lock"):
        if not _is_whole(database):
            _make_store(database)
        _bring_files_home(database)
    return f"sqlite:///{database}"


def artifact_location(uri: str, tracking: Path) -> str | None:
    """Where a new experiment keeps its files; None leaves it to the server."""
    return (tracking.absolute() / "artifacts").as_uri() if uri == OWN else None


def _is_whole(database: Path) -> bool:
    """MLflow has opened it once: the experiment it makes then is the last thing of a new store."""
    if not database.is_file():
        return False
    try:
        with closing(sqlite3.connect(database)) as store:
            return store.execute("SELECT 1 FROM experiments").fetchone() is not None
    except sqlite3.DatabaseError as error:
        if "no such table" in str(error) or not isinstance(error, sqlite3.OperationalError):
            return False
        raise  # it is locked, or cannot be read now


def _make_store(database: Path) -> None:
    """Beside its place, so that one that was cut off never is in it; all can be sent again."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    if database.is_file():
        database.replace(database.with_suffix(".broken"))
    location = artifact_location(OWN, database.parent)
    with whole_file(database) as partial:
        SqlAlchemyStore(f"sqlite:///{partial}", location).engine.dispose()


def _bring_files_home(database: Path) -> None:
    """MLflow keeps absolute paths: those of the workspace this was copied from become its own."""
    here = artifact_location(OWN, database.parent)
    with closing(sqlite3.connect(database)) as store, store:
        for table, column in PLACES_OF_FILES.items():
            end = f"instr({column}, :files) + length(:files)"
            store.execute(
                f"UPDATE {table} SET {column} = :here || substr({column}, {end}) "
                f"WHERE instr({column}, :files) AND substr({column}, 1, length(:here)) <> :here",
                {"here": here, "files": OWN_FILES},
            )
