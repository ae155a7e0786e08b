"""Builds the API reference from docstrings: python docs/reference.py FOLDER."""

import re
import sys
import warnings
from pathlib import Path
from urllib.parse import unquote

import pdoc
import pdoc.render

from neuromix import augment

PACKAGES = ("neuromix.augment", "neuromix.classifiers", "neuromix.experiments")


def build(folder: Path, packages: tuple[str, ...] = PACKAGES) -> None:
    """Write a page for each module."""
    for name in augment.__all__:  # they are imported when they are first used
        setattr(augment, name, getattr(augment, name))
    pdoc.render.configure(docformat="google", footer_text="neuromix")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # annotations that are imported for type checkers alone
        pdoc.pdoc(*packages, output_directory=folder)


def broken_links(folder: Path) -> list[str]:
    """Links between the pages whose page or anchor is not there."""
    pages = {path: path.read_text() for path in folder.rglob("*.html")}
    anchors = {path: set(re.findall(r'\bid="([^"]+)"', text)) for path, text in pages.items()}
    broken = []
    for path, text in pages.items():
        for link in re.findall(r'href="([^"]+)"', text):
            if "://" in link or link.startswith(("data:", "mailto:", "${")):
                continue
            name, _, anchor = unquote(link).partition("#")
            target = (path.parent / name).resolve() if name else path
            if target not in anchors:
                if not target.exists():
                    broken.append(f"{path.name}: {link}")
            elif anchor and anchor not in anchors[target]:
                broken.append(f"{path.name}: {link}")
    return broken


if __name__ == "__main__":
    out = Path(sys.argv[1]).resolve()
    build(out)
    broken = broken_links(out)
    print("\n".join(broken) or f"Open {out / 'index.html'}")
    sys.exit(bool(broken))
