"""Writing behind the drawing: in order, safely written when given back, errors at the surface."""

import threading
from collections.abc import Iterator

import pytest

from nsync_pipeline.drawing.picture_store import written_behind


def made(count: int, log: list[str], broken_at: int | None = None) -> Iterator[int]:
    for number in range(count):
        if number == broken_at:
            raise ValueError(f"{number} cannot be made")
        log.append(f"made {number}")
        yield number


def test_what_is_given_back_is_written() -> None:
    log: list[str] = []
    written: list[int] = []
    for number in written_behind(made(3, log), written.append):
        assert number in written
        log.append(f"given {number}")
    assert written == [0, 1, 2]
    # 0 is given back only when 1 is made: it was written meanwhile.
    assert log == ["made 0", "made 1", "given 0", "made 2", "given 1", "given 2"]


def test_the_next_is_made_while_one_is_written() -> None:
    """The writing of 0 ends only when 1 is being made: in one thread this would never end."""
    one_is_made = threading.Event()

    def write(number: int) -> None:
        if number == 0:
            assert one_is_made.wait(timeout=30)

    def items() -> Iterator[int]:
        yield 0
        one_is_made.set()
        yield 1

    assert list(written_behind(items(), write)) == [0, 1]


def test_a_failed_write_surfaces_and_nothing_more_is_made() -> None:
    log: list[str] = []

    def write(number: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        list(written_behind(made(9, log), write))
    assert log == ["made 0", "made 1"]


def test_a_failed_last_write_surfaces() -> None:
    def write(number: int) -> None:
        if number == 1:
            raise OSError(28, "No space left on device")

    given: list[int] = []
    with pytest.raises(OSError, match="No space left"):
        given.extend(written_behind(made(2, []), write))
    assert given == [0]


def test_what_was_made_before_a_failure_is_written() -> None:
    written: list[int] = []
    with pytest.raises(ValueError, match="2 cannot be made"):
        list(written_behind(made(5, [], broken_at=2), written.append))
    assert written == [0, 1]


def test_whoever_stops_listening_loses_nothing_that_was_made() -> None:
    written: list[int] = []
    pairs = written_behind(made(5, []), written.append)
    assert next(pairs) == 0
    pairs.close()  # type: ignore[attr-defined]
    assert written == [0, 1]
