"""What the captioner answered, kept by what it was asked: no picture is shown to it twice.

Answers are appended to one file, batch by batch. A line that was cut off by a crash is not taken.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path


class AnswerStore:
    """A file of answers by key, a JSON object a line."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def answers(self) -> dict[str, str]:
        """All answers by key."""
        known: dict[str, str] = {}
        if not self.file.is_file():
            return known
        for line in self.file.read_bytes().split(b"\n"):
            try:
                entry = json.loads(line)
                known[str(entry["key"])] = str(entry["answer"])
            except (ValueError, KeyError, TypeError):
                continue  # cut off in the middle of writing
        return known

    def put(self, batch: Mapping[str, str]) -> None:
        """Keep ``batch`` on the disk."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"key": key, "answer": answer}) for key, answer in batch.items()]
        with self.file.open("a", encoding="utf-8") as file:
            # A line break first: what a crash left without one must not swallow this line.
            file.write("\n" + "\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())


def answer_key(picture_sha256: str, asked: Mapping[str, str | int | bool]) -> str:
    """32 hex digits of the SHA-256 over a picture and all that decides the answer on it."""
    content = json.dumps({"picture": picture_sha256, **asked}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]
