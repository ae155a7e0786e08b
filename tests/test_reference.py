"""The API reference is built, and its links lead somewhere."""

import sys
from pathlib import Path

from neuromix import augment

ROOT = Path(__file__).parents[1]


def test_pages_public_names_and_links(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import reference

    reference.build(tmp_path, ("neuromix.augment", "neuromix.classifiers"))
    page = (tmp_path / "neuromix" / "augment.html").read_text()
    for name in augment.__all__:
        assert f'id="{name}"' in page, name
    assert (tmp_path / "neuromix" / "classifiers" / "base.html").exists()
    assert reference.broken_links(tmp_path) == []
    (tmp_path / "broken.html").write_text('<a href="nowhere.html">a</a><a href="#b">b</a>')
    assert len(reference.broken_links(tmp_path)) == 2
    sys.modules.pop("reference")
