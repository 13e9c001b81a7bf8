"""The ablation of a style: ``nsync ablate`` in a process of its own, and what came out of it."""

from typing import Any

from dagster import (
    AssetExecutionContext,
    DataVersion,
    MaterializeResult,
    MetadataValue,
    PipesTempFileContextInjector,
    PipesTempFileMessageReader,
    asset,
    open_pipes_session,
)
from nsync_pipeline.graph.inputs import read_tree, tree_digest

from assets.artefact import said_of
from assets.child_process import run_child
from assets.lineage import GPU, OWNERS, base_samples, negative_set
from assets.partitions import STYLES
from assets.place import WORKSPACE
from nsync_pipeline.workspace import Workspace

OF_ABLATION = Workspace(WORKSPACE.root, of_ablation=True)


class AblationError(Exception):
    """``nsync ablate`` failed; the message is what was said on stderr."""


@asset(
    deps=[negative_set, base_samples],
    partitions_def=STYLES,
    group_name="ablations",
    kinds={"pytorch", "html"},
    owners=OWNERS,
    pool=GPU,
)
def ablation(context: AssetExecutionContext) -> MaterializeResult[Any]:
    """The settings of `ablation` in `params.yaml`, each trained from several seeds and compared.

    What is made already of the same inputs is not made again, so a run that was ended goes on.
    """
    style = context.partition_key
    with open_pipes_session(
        context=context,
        context_injector=PipesTempFileContextInjector(),
        message_reader=PipesTempFileMessageReader(),
    ) as session:
        ended = run_child(("nsync", "ablate", style), session.get_bootstrap_env_vars())
    if ended.code != 0:
        raise AblationError(ended.stderr.strip() or f"it ended with exit code {ended.code}")
    report, evaluation = OF_ABLATION.report(style), OF_ABLATION.evaluation(style)
    version = tree_digest(read_tree(report))
    return MaterializeResult(
        data_version=DataVersion(version),
        metadata={
            "report": MetadataValue.path(str(report / "report.html")),
            **said_of(tree_digest(read_tree(evaluation))),
            **said_of(version),
        },
    )
