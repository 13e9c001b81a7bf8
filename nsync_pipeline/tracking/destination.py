"""The MLflow server that is told; without one, the workspace's own store, made here."""

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from nsync_pipeline.errors import UserError
from nsync_pipeline.files import whole_file
from nsync_pipeline.text import printable

OWN = ""  # stands for the workspace's own store
OWN_FILES = "/.nsync/mlflow/artifacts"  # how the place of every own store's files ends
PLACES_OF_FILES = (
    ("experiments", "artifact_location"), ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"), ("model_versions", "storage_location"),
    ("model_versions", "source"),
)  # fmt: skip
"""The columns of MLflow's tables that name such places."""

DATABASES = frozenset({"postgresql", "mysql", "mssql"})  # besides SQLite: what MLflow has
SECRETS = (
    "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "DATABRICKS_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
)  # fmt: skip


def configured_uri() -> str:
    """``MLFLOW_TRACKING_URI``, or ``OWN``; raises as ``usable_uri`` does."""
    return usable_uri(os.environ.get("MLFLOW_TRACKING_URI", "").strip() or OWN)


def usable_uri(uri: str) -> str:
    """The same ``uri``; raises ``UserError`` for addresses at which nothing would be recorded."""
    if uri == OWN or _is_usable(uri):
        return uri
    raise UserError(
        f"MLflow records nothing at {printable(_masked_address(uri))}: name a server "
        "(http://host:5000) or a database (sqlite:///mlflow.db, in the workspace) in "
        "MLFLOW_TRACKING_URI, or unset it: then the runs are in the workspace's own store"
    )


def _is_usable(uri: str) -> bool:
    scheme, colon, rest = uri.partition("://")
    if re.search(r"[\s\x00-\x1f]", uri):
        return False
    if scheme.lower() == "databricks":
        return True
    if not colon or not rest:
        return False
    if is_remote(uri):
        try:
            parts = urlsplit(uri)
            return bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:  # a port that is no number
            return False
    kind = scheme.lower().partition("+")[0]
    if kind == "sqlite":  # three slashes, then a path; nothing stays of a database in memory
        return re.match(r"/[^?]", rest) is not None and ":memory:" not in rest
    return kind in DATABASES


def is_remote(uri: str) -> bool:
    return uri.lower().startswith(("http://", "https://"))


def masked(text: str) -> str:
    """``text`` without the passwords of this environment and those of any address in it."""
    for secret in _secrets():
        text = text.replace(secret, "***")
    text = re.sub(r"://[^\s'\"]*@", "://***@", text)
    return re.sub(
        r"(?i)\b([\w-]*(?:password|passwd|pwd|token|secret|api_?key))=[^&\s'\"]+", r"\1=***", text
    )


def reason_of(error: object) -> str:
    """What an error says, in one line, ``masked``; of one that says nothing, its kind."""
    return masked(" ".join(str(error).split()) or type(error).__name__)


def _masked_address(uri: str) -> str:
    """As ``masked``, of a text that is all address, maybe without its scheme."""
    return re.sub(r"^(?!\*)[^/]*:[^/]*@", "***@", masked(uri))


def _secrets() -> list[str]:
    """What must not be shown, the longest first."""
    found = [os.environ.get(name, "") for name in SECRETS]
    _, colon, rest = os.environ.get("MLFLOW_TRACKING_URI", "").partition("://")
    account, at, _ = rest.rpartition("@")
    if colon and at:
        password = account.partition(":")[2]
        found += [account, password, unquote(password)]
    return sorted({one for one in found if len(one) > 3}, key=len, reverse=True)


def resolved_uri(uri: str, tracking: Path) -> str:
    """The URI for MLflow; the workspace's own store is made where there is none that is whole.

    A relative path of a SQLite database is relative to the workspace, not to the current folder.
    """
    scheme, colon, path = uri.partition(":///")
    if colon and scheme.lower().startswith("sqlite") and not path.startswith("/"):
        return f"{scheme}:///{tracking.absolute().parents[1] / path}"
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
    """Where a new experiment keeps its files; None leaves it to the server.

    A database alone has no place for files: MLflow would take one in the current folder.
    """
    of_server = is_remote(uri) or uri.lower().startswith("databricks")
    return None if of_server else (tracking.absolute() / "artifacts").as_uri()


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

    if database.exists():
        database.replace(database.with_suffix(".broken"))
    for of in ("-journal", "-wal", "-shm"):  # SQLite would bring the new one to the old one's state
        database.with_name(database.name + of).unlink(missing_ok=True)
    location = artifact_location(OWN, database.parent)
    with whole_file(database) as partial:
        SqlAlchemyStore(f"sqlite:///{partial}", location).engine.dispose()


def _bring_files_home(database: Path) -> None:
    """MLflow keeps absolute paths: those of the workspace this was copied from become its own."""
    here = artifact_location(OWN, database.parent)
    with closing(sqlite3.connect(database)) as store, store:
        for table, column in PLACES_OF_FILES:
            end = f"instr({column}, :files) + length(:files)"
            store.execute(
                f"UPDATE {table} SET {column} = :here || substr({column}, {end}) "
                f"WHERE instr({column}, :files) AND substr({column}, 1, length(:here)) <> :here",
                {"here": here, "files": OWN_FILES},
            )
