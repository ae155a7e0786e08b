"""Tiny phantoms, made once a session."""

import os
import socket
from pathlib import Path

import pytest

from neuromix.augment.data.grid import Grid
from neuromix.augment.phantom import make_phantom
from neuromix.augment.phantom.anatomy import Anatomy


@pytest.fixture(scope="session")
def md_phantom(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("phantoms") / "md"
    return make_phantom(out, "md", subjects=12, seed=3, spacing=8.0)


@pytest.fixture(scope="session")
def paired_phantom(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("phantoms") / "paired"
    return make_phantom(out, "paired", subjects=6, seed=3, spacing=8.0)


@pytest.fixture(scope="session")
def tiny_pairs(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("phantoms") / "pairs"
    return make_phantom(out, "paired", subjects=6, seed=3, spacing=12.0)


@pytest.fixture(scope="session")
def task_phantom(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("phantoms") / "task"
    return make_phantom(out, "task", subjects=2, seed=3, spacing=8.0)


@pytest.fixture(scope="session")
def anatomy() -> Anatomy:
    return Anatomy(Grid.mni(6.0))


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Digests of files are kept for the session, also by its subprocesses, and not at home."""
    os.environ["NEUROMIX_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Nothing that runs in a test asks another machine for anything."""
    connect = socket.socket.connect

    def guard(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            assert address[0] in ("127.0.0.1", "::1", "localhost"), f"network access: {address}"
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guard)
