"""The examples of README and docs are run in their order, in one folder and one session."""

import re
import shlex
from pathlib import Path

import pytest

from neuromix.experiments.cli.main import main
from neuromix.experiments.evidence.configs import Transfer
from neuromix.experiments.evidence.transfer import TransferComparison
from neuromix.experiments.frame.verdict import Endpoint

ROOT = Path(__file__).parents[1]
EXAMPLES = ("README.md", "docs/data.md", "docs/use.md")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    text = "\n".join((ROOT / page).read_text() for page in EXAMPLES)
    blocks = re.findall(r"^```(python|bash run)\n(.*?)^```", text, re.M | re.S)
    assert {kind for kind, _ in blocks} == {"python", "bash run"}
    for kind, text in blocks:
        if kind == "python":
            exec(compile(text, "examples", "exec"), names)
            continue
        for line in filter(None, text.splitlines()):
            program, *args = shlex.split(line, comments=True)
            assert program == "neuromix"
            assert main(args) == 0, line


def anchors(page: Path) -> set[str]:
    """What a browser of repositories makes of the headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        other = page.parent / name if name else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


def test_the_map_names_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text().split("## The map")[1]
    for first in re.findall(r"^\| `([^`]+)`", text, re.M):
        assert list(ROOT.glob(first.rstrip("/"))), first


def test_the_endpoint_is_a_comparison_of_the_experiment(tmp_path):
    evidence = (ROOT / "docs" / "evidence.md").read_text()
    (text,) = re.findall(r"^```json\n(.*?)^```", evidence, re.M | re.S)
    path = tmp_path / "endpoint.json"
    path.write_text(text)
    config = Transfer(seed=1000, endpoint=path)
    Endpoint.read(path, TransferComparison.name, config.seed).require(config.keys, config.arms)
