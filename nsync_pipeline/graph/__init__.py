"""The graph of stages: said in a table, run artefact by artefact, written out for DVC."""
