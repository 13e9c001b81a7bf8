"""Nested settings as the flat dotted names MLflow's compare page lines up."""

from collections.abc import Mapping, Sequence

Scalar = str | int | float | bool | None


def flat(settings: Mapping[str, object], prefix: str = "") -> dict[str, Scalar]:
    """``{"training": {"steps": 5}}`` as ``{"training.steps": 5}``; a list becomes one text."""
    leaves: dict[str, Scalar] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{name}.")
        elif isinstance(value, (str, int, float, bool)) or value is None:
            leaves[name] = value
        elif isinstance(value, Sequence):
            leaves[name] = ", ".join(str(item) for item in value)
        else:
            leaves[name] = str(value)
    return leaves
