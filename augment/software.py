"""By which software something is made: versions, and the commit where the code lies in git."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("neuromix", "torch", "torchio", "diffusers", "monai", "nilearn", "scikit-learn")
CODE = ("augment", "classifiers", "experiments")


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide what comes out."""
    return {"Python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


@functools.cache
def commit() -> str:
    """Of the checkout that this code runs from, and whether it was changed since; or ``""``."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():  # installed, perhaps inside somebody else's checkout
        return ""
    try:
        head = git(root, "rev-parse", "--short=12", "HEAD")
        changed = git(root, "status", "--porcelain", "--untracked-files=no", "--", *CODE)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{head}, with changes" if changed else head


def git(root: Path, *words: str) -> str:
    """What git says in a folder; ``CalledProcessError`` where it fails."""
    # In a hook, git's variables name another checkout.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    done = subprocess.run(
        ["git", "-C", str(root), *words], env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return done.stdout.strip()
