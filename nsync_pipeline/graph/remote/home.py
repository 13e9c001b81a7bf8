"""One artefact made by a job on the cluster, for the workspace at home.

What it reads is sent first; what it made is fetched by its content, and is what it says of itself,
or is not taken.
"""

import hashlib
import json
import tempfile
from dataclasses import replace
from pathlib import Path

from nsync_pipeline import __version__
from nsync_pipeline.errors import NotFetchedError, ParamsError, UserError
from nsync_pipeline.executor import RayConfig, ResourcesConfig
from nsync_pipeline.files import file_sha256
from nsync_pipeline.graph.artefacts import Artefact, Graph, difference
from nsync_pipeline.graph.made import MADE_FILE, SUMS_FILE, Made, read_made, require_whole
from nsync_pipeline.graph.processes import interrupted_by_sigterm
from nsync_pipeline.graph.remote.cluster import Cluster, Done, Job
from nsync_pipeline.graph.remote.courier import HomeCourier
from nsync_pipeline.graph.remote.job import Request
from nsync_pipeline.graph.run import JobOptions
from nsync_pipeline.graph.table import STAGES


def made_on_ray(
    graph: Graph, artefact: Artefact, plan: Made, written: Path, options: JobOptions
) -> Made:
    """Have a job make ``artefact``, and bring it to ``written``, which is empty.

    Raises:
        UserError: there is no Ray or no DVC remote, no node can hold the job, or it failed; and
            where what came home is not what was asked for.
        KeyboardInterrupt: Ctrl-C, SIGTERM, or the end of the DVC that started this; the job has
            ended.
    """
    config = graph.params.executor.ray
    assert config is not None, "there is a cluster, or there are no places on it"
    workspace = graph.workspace
    cluster, courier = Cluster(config), HomeCourier(workspace.root, workspace.state)
    with interrupted_by_sigterm(), tempfile.TemporaryDirectory(prefix="nsync-") as folder:
        reads = _reads(graph, artefact, plan)
        key = _key(artefact, plan, courier.remote.url)
        kept = config.checkpoints and f"{config.checkpoints.rstrip('/')}/{key}"
        job = Job(key, artefact.title, Path(folder), *_resources(config, graph, artefact))

        def send_and_run() -> Done:
            notes = courier.send({key: workspace.root / path for path, key in reads.items()})
            Request(
                plan, artefact.of_ablation, graph.part, workspace.params_file.read_text("utf-8"),
                {path: notes[key] for path, key in reads.items()}, courier.remote.shown,
                config.cache, kept,
            ).write(job.folder)  # fmt: skip
            return cluster.run(job, options)

        try:
            done = send_and_run()
        except NotFetchedError:  # somebody has emptied the remote: all is sent again
            courier.forget()
            done = send_and_run()
        if not done.is_new:
            options.say(f"{artefact.title}: the cluster has made it already")
        written.rmdir()
        try:
            courier.fetch(done.note, written)
        except NotFetchedError:
            if done.is_new:
                raise
            done = cluster.run(job, replace(options, anew=True))  # the remote has it no more
            courier.fetch(done.note, written)
    made = _required(graph, artefact, plan, written)
    courier.remember(_said_and_held(written), done.note)
    return made


def _reads(graph: Graph, artefact: Artefact, plan: Made) -> dict[str, str]:
    """What the stage reads, by path: a key of all that is there."""
    made = {need.path for need in graph.needs(artefact)}
    root = graph.workspace.root
    keys = {}
    for path, digest in plan.inputs.items():
        place = root / path
        if path in made:
            keys[path] = _said_and_held(place)
        elif place.is_file() or any(file.is_file() for file in place.rglob("*")):
            keys[path] = digest
    return keys


def _said_and_held(folder: Path) -> str:
    """Of an artefact: what it says of itself, and what it holds."""
    both = f"{file_sha256(folder / MADE_FILE)} {file_sha256(folder / SUMS_FILE)}"
    return hashlib.sha256(both.encode()).hexdigest()


def _key(artefact: Artefact, plan: Made, remote: str) -> str:
    """Names the job: the same for all who ask for the same, with the same remote."""
    content = json.dumps([artefact.slot, plan.digest(), __version__, remote])
    return f"{artefact.slot}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def _resources(
    config: RayConfig, graph: Graph, artefact: Artefact
) -> tuple[ResourcesConfig, float]:
    """What the job asks of a node, and how many GPUs."""
    strangers = [name for name in config.resources if name not in STAGES]
    if strangers:
        raise ParamsError(
            f"params.yaml: executor.ray.resources.{strangers[0]} is of no stage; there are: "
            f"{', '.join(STAGES)}"
        )
    resources = config.resources.get(artefact.stage.name, ResourcesConfig())
    if resources.gpus is not None:
        return resources, resources.gpus
    device = graph.params.base_model.device
    return resources, float(artefact.stage.on_device and device in ("auto", "cuda"))


def _required(graph: Graph, artefact: Artefact, plan: Made, written: Path) -> Made:
    """What came home says of itself; raises where it is not what was asked for, or not whole."""
    made = read_made(written)
    if made is None or not made.made_alike(plan):
        why = "it says nothing of itself" if made is None else difference(plan, made)
        raise UserError(f"{artefact.title}: what the job made is not what was asked for: {why}")
    require_whole(written, made, graph.hashes)
    return made
