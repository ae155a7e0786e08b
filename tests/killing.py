"""A process that kills itself at a finished file, by a server that has imported what it needs."""

import multiprocessing
import os
import signal
from pathlib import Path

HEAVY = ("neuromix.experiments.audit.audit", "neuromix.experiments.evidence.transfer")


def kill_at(finished: int, command: list[str]) -> int:
    """Run a command in a process of its own up to its n-th finished file; its exit code."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__, *HEAVY])
    process = processes.Process(target=_run, args=(finished, command))
    process.start()
    process.join()
    return process.exitcode


def _run(left: int, command: list[str]) -> None:
    from neuromix.experiments.audit import completer
    from neuromix.experiments.cli.main import main

    move = Path.replace

    def replace(self, target):
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return move(self, target)

    Path.replace = replace
    completer.SAMPLES = SAMPLES
    raise SystemExit(main(command))


SAMPLES = 2
"""Of a person in the audit of a completer, which makes eight otherwise."""
