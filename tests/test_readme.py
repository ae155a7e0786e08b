"""The README's examples are run in their order, in one folder and one session."""

import re
import shlex
from pathlib import Path

from experiments.cli import main
from experiments.evidence import Endpoint
from experiments.transfer import NAME, Transfer

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    blocks = re.findall(r"^```(python|bash run)\n(.*?)^```", README, re.M | re.S)
    assert {kind for kind, _ in blocks} == {"python", "bash run"}
    for kind, text in blocks:
        if kind == "python":
            exec(compile(text, "README.md", "exec"), names)
            continue
        for line in filter(None, text.splitlines()):
            program, *args = shlex.split(line, comments=True)
            assert program == "neuromix"
            assert main(args) == 0, line


def test_links_and_pictures_exist():
    root = Path(__file__).parents[1]
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert "://" in target or (root / target).exists(), target


def test_the_endpoint_is_a_comparison_of_the_experiment(tmp_path):
    (text,) = re.findall(r"^```json\n(.*?)^```", README, re.M | re.S)
    path = tmp_path / "endpoint.json"
    path.write_text(text)
    config = Transfer(seed=1000, endpoint=path)
    Endpoint.read(path, NAME, config.seed).require(config.keys, config.arms)
