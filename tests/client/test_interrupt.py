"""A signal ends a command as a signal, wherever it comes."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from pydantic import BaseModel, field_serializer

from client.run import InterruptedRunError, interruptible


class Interrupted(BaseModel):
    """Gets a signal in the middle of being written as JSON."""

    value: int = 1

    @field_serializer("value")
    def write(self, value: int) -> int:
        """The handler raises, and pydantic takes that for a failure of the model's."""
        signal.raise_signal(signal.SIGTERM)
        return value


@pytest.fixture
def handlers() -> Iterator[None]:
    """Back to what they were: a command that was interrupted ignores further signals."""
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(kind) for kind in kinds]
    yield
    for kind, handler in zip(kinds, before, strict=True):
        signal.signal(kind, handler)


@pytest.mark.usefixtures("handlers")
def test_a_signal_within_a_library_in_c_is_told_as_a_signal() -> None:
    with pytest.raises(InterruptedRunError) as told, interruptible():
        Interrupted().model_dump_json()
    assert told.value.number == signal.SIGTERM


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(ZeroDivisionError), interruptible():
        _ = 1 / 0
