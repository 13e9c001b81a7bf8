"""Stages as jobs on a Ray cluster: ``home`` asks, ``job`` runs on a node, ``cluster`` is Ray.

What a stage reads, and what it made, goes through the workspace's DVC remote (``courier``), by
content; what an interrupted stage goes on from is kept by ``kept``.
"""
