"""The Dagster code location: the pipeline's artefacts as a lineage graph."""
