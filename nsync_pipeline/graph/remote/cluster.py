"""A Ray cluster, by its jobs: asked for, followed, ended, and asked for again where a node died.

``ray`` is imported here alone, and only where a job is asked for.
"""

import getpass
import logging
import os
import shlex
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nsync_pipeline.errors import ElsewhereError, NotFetchedError, UserError, short_list
from nsync_pipeline.executor import RayConfig, ResourcesConfig
from nsync_pipeline.graph.processes import OURS, last_words
from nsync_pipeline.graph.remote.job import MADE, STARTED
from nsync_pipeline.graph.run import JobOptions
from nsync_pipeline.text import printable
from nsync_pipeline.tracking.destination import masked, reason_of

logger = logging.getLogger(__name__)

TIMEOUT = 30.0  # seconds for one answer of the cluster
LOOK_EVERY = 1.0  # seconds between two looks at a job
PATIENCE = 60.0  # seconds that the cluster may not answer
LAST_WORDS = 30.0  # seconds in which the log of a job that is done must be there
NODE_RETURNS = 120.0  # seconds that are waited for one where one died
TELL_AFTER = 5.0  # seconds
PAUSE = 2.0  # seconds before a job is asked for again
KEY, OWNER = "nsync.key", "nsync.owner"  # of a job's metadata
LONGEST_LINE = 1000  # characters
ENTRYPOINT_FAILED = "JOB_ENTRYPOINT_COMMAND_ERROR"
RUNTIME_ENV_FAILED = "RUNTIME_ENV_SETUP_FAILURE"
NEVER_STARTED = "JOB_SUPERVISOR_ACTOR_START_TIMEOUT"
NOTHING_RAN = (126, 127)  # how a shell ends that could not start a program
TERMINATED = 128 + signal.SIGTERM  # how a job ends that was told to


@dataclass(frozen=True)
class Job:
    """A job, before Ray has it."""

    key: str  # the same for all who ask for the same
    title: str
    folder: Path  # what the job runs in, with the request
    resources: ResourcesConfig
    gpus: float


@dataclass(frozen=True)
class Done:
    """A job that went well."""

    note: str  # the courier's, of what it made
    is_new: bool  # it ran since it was asked for


@dataclass(frozen=True)
class _Lost:
    """A job that may go well elsewhere."""

    why: str


STOPPED = _Lost("its job was stopped")


@dataclass
class _Log:
    """What a job printed."""

    lines: list[str] = field(default_factory=list)  # all whole ones
    taken: int = 0
    note: str | None = None  # what it said of the artefact

    def new(self, text: str) -> list[str]:
        """What the job printed since this was asked last, without what Ray said before."""
        lines = text[: text.rfind("\n") + 1].split("\n")[:-1]
        self.lines = lines or self.lines  # once its node is gone, nothing is read
        fresh, self.taken = self.lines[self.taken :], max(self.taken, len(self.lines))
        made = [line for line in fresh if line.startswith(MADE)]
        if made:
            self.note = made[-1].removeprefix(MADE).strip()
        begun = next((n for n, line in enumerate(self.lines) if line.startswith(STARTED)), None)
        own = len(self.lines) - len(fresh)
        return [
            printable(line, LONGEST_LINE)
            for number, line in enumerate(fresh, start=own)
            if begun is not None and number >= begun and not line.startswith(MADE)
        ]


class RayJobs:
    """Ray's own client, with the nodes there are, and with limits of time."""

    def __init__(self, address: str) -> None:
        """Raises ``UserError`` where no Ray answers at ``address``."""
        try:
            from ray.job_submission import JobSubmissionClient
        except ImportError as error:
            raise UserError(
                f"stages run on Ray (executor.ray.address: {address}), which is not installed: "
                "pip install 'nsync-pipeline[ray]'"
            ) from error
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            if os.environ.get(name) not in (None, address):
                raise UserError(
                    f"{name} in the environment names another cluster than executor.ray.address "
                    f"({address}), and Ray would take it: unset it."
                )
        for name in ("ray", "ray.dashboard.modules.dashboard_sdk"):  # tells of all that it sends
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            at = urlsplit(address)
            port = at.port or (443 if at.scheme == "https" else 80)
            # Ray itself would wait for minutes.
            socket.create_connection((at.hostname or "", port), timeout=10).close()
            client: Any = JobSubmissionClient(address)
        except (OSError, ValueError) as error:
            raise UserError(
                f"no Ray answers at {address} (executor.ray.address): `ray start --head` starts "
                "one, and the address of its dashboard is what is meant."
            ) from error
        except Exception as error:  # ray raises what its transport raises
            raise UserError(
                f"Ray at {address} (executor.ray.address) refuses: {_said(error)}"
            ) from error
        client._do_request = partial(client._do_request, timeout=TIMEOUT)
        self._address = address
        self.submit, self.stop = client.submit_job, client.stop_job
        self.jobs, self.job, self.log = client.list_jobs, client.get_job_info, client.get_job_logs

    def nodes(self) -> Sequence[Any]:
        """Those that are alive."""
        from ray.util.state import list_nodes

        alive = [("state", "=", "ALIVE")]
        found: Sequence[Any] = list_nodes(
            address=self._address,
            filters=alive,
            limit=10_000,
            raise_on_missing_output=False,  # else it raises once a node has died
        )
        return found


class Cluster:
    """What jobs are asked of."""

    def __init__(self, config: RayConfig, ray: Any = None) -> None:
        """Raises as ``RayJobs``, which stands for the cluster where ``ray`` is not given."""
        self._config = config
        self._ray = RayJobs(config.address) if ray is None else ray

    def run(self, asked: Job, options: JobOptions) -> Done:
        """Have the job run until it is done; what it prints is said.

        Where the same is being made, by whoever asked for it, that is followed; where it was made,
        that is taken, unless ``options.anew``. Who is interrupted ends the job, if it is theirs.

        Raises:
            UserError: the job failed, no node can hold it, it was stopped, or Ray is gone.
        """
        tries, anew, say = 0, options.anew, options.say
        while True:
            before = [] if anew else self._same(asked)
            there = next((job for job in before if job.status in ("PENDING", "RUNNING")), None)
            if there is None and before and before[0].status == "SUCCEEDED":
                note = self._note(before[0].submission_id)
                if note is not None:
                    return Done(note, is_new=False)
            # A node that died may be on its way back.
            patience = max(60 * self._config.wait_minutes, NODE_RETURNS if tries else 0.0)
            if there is None:
                if patience == 0:
                    self._require_node(asked)
                submission = self._submit(asked)
                if submission is None:  # another asked for it in this moment
                    anew = False
                    continue
            else:
                submission = there.submission_id
                owner = there.metadata.get(OWNER, "somebody")
                say(f"{asked.title}: followed, as the job {submission} of {owner} makes it")
            is_own = there is None or there.metadata.get(OWNER) == _owner()
            outcome = self._followed(asked, submission, is_own, options, patience)
            if outcome == STOPPED and there is not None:
                outcome = _Lost("who asked for it had stopped the job")
            if outcome == STOPPED:
                raise UserError(
                    f"{asked.title}: its job was stopped (by `ray job stop`, or in Ray's page)"
                )
            if isinstance(outcome, str):
                return Done(outcome, is_new=True)
            anew, tries = True, tries + 1
            if tries > self._config.retries:
                raise UserError(
                    f"{asked.title}: {outcome.why}. It was tried {tries} times "
                    "(executor.ray.retries)."
                )
            again = f"asked for again ({tries} of {self._config.retries})"
            logger.warning("%s: %s; %s", asked.title, outcome.why, again)
            time.sleep(PAUSE)

    def _same(self, asked: Job) -> list[Any]:
        """The jobs of the same key, the newest first."""
        jobs = self._answer(self._ray.jobs)
        same = [job for job in jobs if (job.metadata or {}).get(KEY) == asked.key]
        return sorted(same, key=lambda job: job.start_time or 0, reverse=True)

    def _submit(self, asked: Job) -> str | None:
        """Ask for the job; None where one of the same name was asked for just now."""
        count = len(self._same(asked)) + 1
        name = f"nsync-{asked.key}-{count}"
        resources = asked.resources
        memory = resources.memory_gib
        python = shlex.quote(self._config.python)
        try:
            submitted: str = self._ray.submit(
                # exec: the job is a child of Ray's own process, and ends with it
                entrypoint=f"exec {python} -m nsync_pipeline.graph.remote.job",
                submission_id=name,
                runtime_env={"working_dir": str(asked.folder)},
                metadata={KEY: asked.key, OWNER: _owner(), "nsync.title": asked.title},
                entrypoint_num_cpus=resources.cpus,
                entrypoint_num_gpus=asked.gpus,
                entrypoint_memory=None if memory is None else int(memory * 2**30),
                entrypoint_resources=resources.custom or None,
                entrypoint_label_selector=resources.labels or None,
            )
        except Exception as error:
            if "already exists" in str(error):
                return None
            raise UserError(f"{asked.title}: Ray refused the job: {_said(error)}") from error
        return submitted

    def _followed(
        self, asked: Job, submission: str, is_own: bool, options: JobOptions, patience: float
    ) -> str | _Lost:
        """Follow one job to its end; gives the note of what it made."""
        log, heard, began, is_said = _Log(), time.monotonic(), time.monotonic(), False
        try:
            while True:
                time.sleep(LOOK_EVERY)
                try:
                    job = self._ray.job(submission)
                    heard = time.monotonic()
                except Exception as error:
                    if time.monotonic() > heard + PATIENCE:
                        raise UserError(
                            f"{asked.title}: Ray at {self._config.address} has not answered for "
                            f"{PATIENCE:.0f} seconds ({_said(error)}). Where the job goes on, the "
                            "same command follows it."
                        ) from error
                    continue
                if job.status == "PENDING":
                    if not is_said and time.monotonic() > began + TELL_AFTER:
                        options.say(f"{asked.title}: waits for its place on the cluster")
                        is_said = True
                    if time.monotonic() > began + patience:
                        try:
                            self._require_node(asked)
                        except UserError:
                            self._stop(submission)
                            raise
                    continue
                for line in log.new(self._printed(submission)):
                    host = line.removeprefix(STARTED)
                    options.say(line if host == line else f"{asked.title}: runs on {host}")
                if job.status != "RUNNING":
                    return self._outcome(asked, job, log)
        except UserError:
            raise
        except BaseException:  # who asked for it has left
            if is_own:
                self._stop(submission)
            raise

    def _outcome(self, asked: Job, job: Any, log: _Log) -> str | _Lost:
        if job.status == "SUCCEEDED":
            note = log.note or self._note(job.submission_id)
            if note is None:
                raise UserError(
                    f"{asked.title}: its job is done, and its log cannot be read, which says how "
                    "the artefact is found. Of several nodes on one machine, each needs a "
                    "`--dashboard-agent-listen-port` of its own."
                )
            return note
        if job.status == "STOPPED":
            return STOPPED
        code = job.driver_exit_code
        if job.error_type == RUNTIME_ENV_FAILED or job.error_type == NEVER_STARTED:
            raise UserError(f"{asked.title}: {_said(job.message)}")
        if job.error_type != ENTRYPOINT_FAILED or code is None:
            return _Lost(f"its node or its process died ({_said(job.message, 300)})")
        if code < 0 or code == TERMINATED:
            return _Lost(f"its process was killed (exit code {code})")
        if code in NOTHING_RAN:
            raise UserError(
                f"{asked.title}: its node has no program {self._config.python} that it can start; "
                "executor.ray.python says which Python of a node has this package"
            )
        why = _reason(asked.title, log.lines, code)
        raise NotFetchedError(why) if code == NotFetchedError.exit_code else ElsewhereError(why)

    def _note(self, submission: str) -> str | None:
        """What a job that is done said last, once its log can be read."""
        limit = time.monotonic() + LAST_WORDS
        while time.monotonic() < limit:
            log = _Log()
            log.new(self._printed(submission))
            if log.note is not None:
                return log.note
            time.sleep(LOOK_EVERY)
        return None

    def _printed(self, submission: str) -> str:
        """What the job printed; nothing where that cannot be read, as where its node is gone."""
        with suppress(Exception):
            return str(self._ray.log(submission))
        return ""

    def _stop(self, submission: str) -> None:
        """End the job, and wait until it has, for a while."""
        with suppress(Exception):
            self._ray.stop(submission)
            limit = time.monotonic() + 10
            while time.monotonic() < limit:
                if self._ray.job(submission).status in ("STOPPED", "FAILED"):
                    return
                time.sleep(LOOK_EVERY)

    def _require_node(self, asked: Job) -> None:
        """Raise ``UserError`` where no node that is there could hold the job, were it free."""
        nodes = self._answer(self._ray.nodes)
        wanted = _wanted(asked)
        for node in nodes:
            has, labels = node.resources_total or {}, node.labels or {}
            if all(has.get(name, 0.0) >= count for name, count in wanted.items()) and all(
                labels.get(name) == value
                for name, value in asked.resources.labels.items()
                if value.isidentifier()  # and no `!a100` or `in(a100, h100)`, which Ray reads
            ):
                return
        asks = [_amount(name, count) for name, count in wanted.items()]
        asks += [f"label {name}={value}" for name, value in asked.resources.labels.items()]
        raise UserError(
            f"{asked.title}: no node of {self._config.address} has {', '.join(asks)}; there are: "
            f"{short_list([_in_words(node) for node in nodes])}. `executor.ray.resources` says "
            "what a stage asks for, and `wait_minutes` how long a node may take to come."
        )

    def _answer(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except Exception as error:
            raise UserError(
                f"Ray at {self._config.address} did not answer: {_said(error)}"
            ) from error


def _wanted(asked: Job) -> dict[str, float]:
    """What the job asks for, by Ray's names."""
    resources = asked.resources
    wanted = {"CPU": resources.cpus, "GPU": asked.gpus, **resources.custom}
    if resources.memory_gib is not None:
        wanted["memory"] = resources.memory_gib * 2**30
    return {name: count for name, count in wanted.items() if count > 0}


def _in_words(node: Any) -> str:
    has = node.resources_total or {}
    own = [
        _amount(name, count)
        for name, count in has.items()
        if not name.startswith(("node:", "object_store_memory"))
    ]
    return f"{node.node_ip} with {', '.join(own)}"


def _amount(name: str, count: float) -> str:
    return f"memory {count / 2**30:.3g} GiB" if name == "memory" else f"{name} {count:g}"


def _owner() -> str:
    """Who asks: jobs of theirs end with the command that asked for them."""
    with suppress(OSError, KeyError):
        return f"{getpass.getuser()}@{socket.gethostname()}"
    return socket.gethostname()


def _reason(title: str, lines: Sequence[str], code: int) -> str:
    """What the engine said on the node; where it said nothing, the last that was printed."""
    said = last_words("\n".join(lines)) or "it printed nothing"
    if any(line.startswith(OURS) for line in lines):
        return f"{title}, on a node of the cluster: {said}"
    return f"{title}: its job ended with {code}: {printable(masked(said), 600)}"


def _said(error: object, most: int = 600) -> str:
    return printable(reason_of(error), most)
