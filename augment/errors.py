"""Errors that a user can act on."""


class InputError(ValueError):
    """Bad input, told in one line: what came, what is allowed and what to do next.

    The command line prints the line and ends with exit code 2.
    """


class TrainingError(RuntimeError):
    """A training that went wrong by itself: says at which step, and what can still be used."""
