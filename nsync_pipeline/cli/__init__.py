"""The command line, ``nsync``."""

from nsync_pipeline.graph.processes import die_with_parent, ends_with_parent


def main() -> None:
    """Run the command; one that ends with who started it does so from its first moment on.

    What a command imports takes seconds: who started it may have been killed meanwhile.
    """
    if ends_with_parent():
        die_with_parent()
    from nsync_pipeline.cli.app import main as run_command

    run_command()
