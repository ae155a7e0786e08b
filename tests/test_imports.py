from pathlib import Path

import pytest
from importlinter.cli import lint_imports

from neuromix import augment


def test_every_file_looks_down_only(capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    assert lint_imports() == 0, capsys.readouterr().out


def test_public_names_are_there_and_others_are_not():
    for name in augment.__all__:
        assert getattr(augment, name).__name__ == name
    with pytest.raises(AttributeError, match="it has"):
        augment.nothing  # noqa: B018
