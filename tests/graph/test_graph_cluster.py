"""What is done with jobs, whatever becomes of them; Ray itself is a fake."""

import socket
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsync_pipeline.errors import NotFetchedError, UserError
from nsync_pipeline.executor import RayConfig, ResourcesConfig
from nsync_pipeline.graph.remote import cluster as of_cluster
from nsync_pipeline.graph.remote.cluster import Cluster, Done, Job, RayJobs, _Log
from nsync_pipeline.graph.run import JobOptions

BY_RAY = "Runtime env is setting up.\nRunning entrypoint for job x: exec python\n"
WENT_WELL = f"{BY_RAY}nsync-started node\nsteps 1/2\nsteps 2/2\nnsync-made abc.dir\n"
OURS = "somebody@here"
ONE_CORE = ResourcesConfig()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_EVERY", "PAUSE", "LAST_WORDS", "NODE_RETURNS"):
        monkeypatch.setattr(of_cluster, name, 0.001)
    monkeypatch.setattr(of_cluster, "_owner", lambda: OURS)


def job(status: str, log: str = WENT_WELL, **more: Any) -> SimpleNamespace:
    """As Ray describes a job; ``log`` is what it printed."""
    said = {"error_type": None, "driver_exit_code": None, "message": "", "start_time": 0}
    return SimpleNamespace(status=status, printed=log, **(said | {"metadata": {}} | more))


DIED = {"error_type": "JOB_SUPERVISOR_ACTOR_DIED", "message": "its node died"}
FAILED = {"error_type": "JOB_ENTRYPOINT_COMMAND_ERROR"}
CPU_NODE = SimpleNamespace(
    node_ip="10.0.0.1", labels={"kind": "old"},
    resources_total={"CPU": 4.0, "memory": 2.0**33, "node:10.0.0.1": 1.0},
)  # fmt: skip


@dataclass
class FakeRay:
    """Jobs that come to the ends of ``ends``, one after the other."""

    ends: list[SimpleNamespace]
    there: dict[str, SimpleNamespace] = field(default_factory=dict)
    nodes_there: list[SimpleNamespace] = field(default_factory=lambda: [CPU_NODE])
    submitted: list[dict[str, Any]] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    refuses: bool = False

    def submit(self, **asked: Any) -> str:
        name = str(asked["submission_id"])
        if self.refuses or name in self.there:
            raise RuntimeError(f"Job with submission_id {name} already exists.")
        self.submitted.append(asked)
        end = self.ends.pop(0)
        end.metadata, end.submission_id, end.start_time = asked["metadata"], name, len(self.there)
        self.there[name] = end
        return name

    def jobs(self) -> list[SimpleNamespace]:
        return list(self.there.values())

    def job(self, name: str) -> SimpleNamespace:
        return self.there[name]

    def log(self, name: str) -> str:
        return str(self.there[name].printed)

    def stop(self, name: str) -> None:
        self.stopped.append(name)
        self.there[name].status = "STOPPED"

    def nodes(self) -> list[SimpleNamespace]:
        return self.nodes_there


def run(
    ray: FakeRay,
    said: list[str] | None = None,
    *,
    anew: bool = False,
    resources: ResourcesConfig = ONE_CORE,
    gpus: float = 0.0,
    **config: Any,
) -> Done:
    cluster = Cluster(RayConfig(address="http://head:8265", **config), ray)
    asked = Job("key", "training · ink", Path("/request"), resources, gpus)
    say = (said if said is not None else []).append
    return cluster.run(asked, JobOptions(say, anew))


def running_of(owner: str, name: str = "theirs") -> dict[str, SimpleNamespace]:
    metadata = {"nsync.key": "key", "nsync.owner": owner}
    return {name: job("RUNNING", metadata=metadata, submission_id=name)}


def test_job_says_what_it_prints_and_where_the_artefact_is() -> None:
    said: list[str] = []
    ray = FakeRay([job("SUCCEEDED")])
    resources = ResourcesConfig(cpus=2, memory_gib=4, labels={"kind": "old"})
    assert run(ray, said, resources=resources) == Done("abc.dir", is_new=True)
    assert said == ["training · ink: runs on node", "steps 1/2", "steps 2/2"]
    assert ray.submitted[0]["entrypoint_num_cpus"] == 2
    assert ray.submitted[0]["entrypoint_memory"] == 4 * 2**30
    assert ray.submitted[0]["entrypoint_label_selector"] == {"kind": "old"}


@pytest.mark.parametrize(
    "end",
    [DIED, FAILED | {"driver_exit_code": -9}, FAILED | {"driver_exit_code": 143}],
    ids=["node died", "killed", "terminated"],
)
def test_job_whose_node_or_process_died_is_asked_for_again(
    end: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    ray = FakeRay([job("FAILED", **end), job("FAILED", **end), job("SUCCEEDED")])
    assert run(ray).is_new
    names = [asked["submission_id"] for asked in ray.submitted]
    assert len(set(names)) == len(names) == 3
    assert caplog.messages[-1].endswith("asked for again (2 of 3)")


def test_retries_have_an_end() -> None:
    ray = FakeRay([job("FAILED", **DIED) for _ in range(5)])
    with pytest.raises(UserError, match=r"its node died.*It was tried 2 times"):
        run(ray, retries=1)
    assert len(ray.submitted) == 2


def test_mistake_is_said_in_the_engines_words_and_not_tried_again() -> None:
    log = f"{BY_RAY}nsync-started node\nnsync: the pictures are too small\n"
    ray = FakeRay([job("FAILED", log, **FAILED, driver_exit_code=2)])
    with pytest.raises(UserError, match="on a node of the cluster: the pictures are too small"):
        run(ray)
    assert len(ray.submitted) == 1


def test_what_a_node_could_not_fetch_is_told_apart() -> None:
    log = f"{BY_RAY}nsync-started node\nnsync: nothing could be fetched\n"
    code = NotFetchedError.exit_code
    with pytest.raises(NotFetchedError, match="on a node of the cluster: nothing could be fetched"):
        run(FakeRay([job("FAILED", log, **FAILED, driver_exit_code=code)]))


def test_what_failed_before_the_engine_ran_shows_the_last_that_was_printed() -> None:
    log = f"{BY_RAY}python: No module named nsync_pipeline\n"
    ray = FakeRay([job("FAILED", log, **FAILED, driver_exit_code=1)])
    with pytest.raises(UserError, match=r"ended with 1: .*No module named nsync_pipeline"):
        run(ray)


def test_program_that_a_node_does_not_have_is_named() -> None:
    ray = FakeRay([job("FAILED", BY_RAY, **FAILED, driver_exit_code=127)])
    with pytest.raises(UserError, match=r"no program /opt/python .*executor\.ray\.python"):
        run(ray, python="/opt/python")


def test_what_no_node_can_hold_is_refused_at_once() -> None:
    ray = FakeRay([])
    with pytest.raises(UserError, match=r"no node of .* has CPU 1, GPU 1; there are: 10\.0\.0\.1"):
        run(ray, gpus=1)
    with pytest.raises(UserError, match="label kind=new"):
        run(ray, resources=ResourcesConfig(labels={"kind": "new"}))
    with pytest.raises(UserError, match="CPU 8"):
        run(ray, resources=ResourcesConfig(cpus=8))
    with pytest.raises(UserError, match=r"CPU 1, memory 9 GiB; there are: .* memory 8 GiB"):
        run(ray, resources=ResourcesConfig(memory_gib=9))
    assert ray.submitted == []


def test_node_that_may_come_is_waited_for_but_not_for_ever() -> None:
    ray = FakeRay([job("PENDING")])
    with pytest.raises(UserError, match="no node"):
        run(ray, gpus=1, wait_minutes=0.0001)
    assert ray.stopped == [ray.submitted[0]["submission_id"]]


def silent(name: str) -> SimpleNamespace:
    """In the place of ``FakeRay.job``: no answer."""
    raise ConnectionError


def interrupted(name: str) -> SimpleNamespace:
    """In the place of ``FakeRay.job``: Ctrl-C."""
    raise KeyboardInterrupt


def test_what_another_makes_is_followed_and_left_running() -> None:
    ray, said = FakeRay([], running_of("another@there")), list[str]()
    ray.job = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run(ray, said)
    assert "another@there" in said[0]
    assert not ray.submitted
    assert not ray.stopped


@pytest.mark.parametrize("own", [True, False])
def test_who_leaves_ends_the_job_they_asked_for(own: bool) -> None:
    there = {} if own else running_of(OURS)  # asked for by a command that was killed
    ray = FakeRay([job("RUNNING")], there)
    ray.job = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run(ray)
    assert ray.stopped == list(ray.there)


@pytest.mark.parametrize("owner", ["another@there", OURS])
def test_job_that_its_owner_stopped_is_asked_for_by_who_followed_it(owner: str) -> None:
    there = running_of(owner)
    there["theirs"].status = "PENDING"
    ray = FakeRay([job("SUCCEEDED")], there)

    def stopped(name: str) -> SimpleNamespace:
        ray.there["theirs"].status = "STOPPED"
        return ray.there[name]

    ray.job = stopped  # type: ignore[method-assign]
    assert run(ray).is_new
    assert len(ray.submitted) == 1


def test_own_job_that_somebody_stopped_is_said() -> None:
    with pytest.raises(UserError, match="was stopped"):
        run(FakeRay([job("STOPPED")]))


def test_what_was_made_is_taken_unless_it_is_to_be_made_anew() -> None:
    ray = FakeRay([job("SUCCEEDED"), job("SUCCEEDED")])
    assert run(ray).is_new
    assert not run(ray).is_new
    assert run(ray, anew=True).is_new
    assert len(ray.submitted) == 2


def test_two_who_ask_in_one_moment_share_the_job() -> None:
    ray = FakeRay([])
    ray.refuses = True
    seen = [[], [], *[list(running_of("another@there").values())] * 9]
    ray.jobs = lambda: seen.pop(0)  # type: ignore[method-assign]
    ray.there["theirs"] = job("SUCCEEDED")
    assert run(ray) == Done("abc.dir", is_new=True)


def test_log_that_cannot_be_read_is_no_success() -> None:
    with pytest.raises(UserError, match="--dashboard-agent-listen-port"):
        run(FakeRay([job("SUCCEEDED", log="")]))


def test_cluster_that_does_not_answer_any_more_ends_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_cluster, "PATIENCE", 0.001)
    ray = FakeRay([job("RUNNING")])
    ray.job = silent  # type: ignore[method-assign]
    with pytest.raises(UserError, match="the same command follows it"):
        run(ray)
    assert ray.stopped == []


PRINTED = st.text(st.sampled_from("ab \n\r\x1b"), max_size=60)


@given(PRINTED, st.lists(st.integers(0, 200), max_size=8))
def test_every_whole_line_is_said_once_however_it_comes(text: str, cuts: list[int]) -> None:
    whole = f"{BY_RAY}nsync-started node\n{text}"
    log, said = _Log(), []
    for cut in (*sorted(cuts), len(whole)):
        said += log.new(whole[:cut])
        said += log.new("")  # now and then it cannot be read
    assert len(said) == 1 + text.count("\n")
    assert not any("\x1b" in line for line in said)


def test_address_without_a_cluster_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(UserError, match=f"no Ray answers at {address}"):
            RayJobs(address)
    monkeypatch.setenv("RAY_ADDRESS", "http://elsewhere:8265")
    with pytest.raises(UserError, match="RAY_ADDRESS in the environment names another cluster"):
        RayJobs(address)
