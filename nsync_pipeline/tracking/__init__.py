"""Figures of runs to MLflow: spooled locally first, delivered by a process of its own."""
