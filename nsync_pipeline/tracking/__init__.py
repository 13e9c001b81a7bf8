"""What MLflow shows: a projection of the artefacts, told by a process beside the stages."""
