"""Errors that a user can act on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


class InputError(ValueError):
    """Bad input, told in one line: what came, what is allowed and what to do next.

    The command line prints the line and ends with exit code 2.
    """


def require_choice(name: str, value: Any, allowed: Iterable[Any]) -> None:
    """Refuse a value that is none of those allowed."""
    if value not in (choices := list(allowed)):
        listed = ", ".join(map(str, choices))
        raise InputError(f"{name} {value!r} is not known; allowed are {listed}")


class LeakageError(InputError):
    """Subjects that shall judge a model have had a part in its making.

    Args:
        message: The line for the user, which names them.
        subjects: All of them, as (dataset, subject_id).
    """

    def __init__(self, message: str, subjects: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.subjects = tuple(subjects)


class TrainingError(RuntimeError):
    """A training that went wrong by itself: says at which step, and what can still be used."""
