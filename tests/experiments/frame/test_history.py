import json
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from verdicts import group

from neuromix.augment import software
from neuromix.experiments.evidence.comparison import carry_out
from neuromix.experiments.evidence.report import page
from neuromix.experiments.frame.history import committed

ENDPOINT = {
    "experiment": "transfer", "setting": "dementia-b", "metric": "balanced_accuracy",
    "arm": "synthetic-1", "baseline": "real", "size": 40, "seeds": [1000],
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    endpoint: Path
    seed: int = 1000
    arms: tuple[str, ...] = ("real", "synthetic-1")
    keys = ({"setting": "dementia-b", "size": 40},)
    image = "md"


class Finished:
    """An experiment whose runs are there already."""

    name, images = "transfer", ()

    def __init__(self, config, frame):
        self.frame = frame

    def check(self):
        self.frame.cell({"check": "disjoint"}, dict)

    def fit(self):
        pass

    def groups(self):
        return [group({"real": 0.6, "synthetic-1": 0.8})]

    def page(self, results, groups):
        return page("t", results, groups, [], [])


@pytest.fixture
def endpoint(tmp_path, monkeypatch):
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    path = tmp_path / "study" / "endpoint.json"
    path.parent.mkdir()
    path.write_text(json.dumps(ENDPOINT))
    return path


def git(path, *words):
    names = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    command = ["git", "-C", str(path.parent), *names, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit(path, message="Endpoint"):
    git(path, "init", "-q")
    git(path, "add", path.name)
    git(path, "commit", "-qm", message)
    return git(path, "log", "-1", "--format=%H %cI").split()


def outcome(path):
    """What the results of a run say of the endpoint; the page says it, too."""
    out = path.parents[1] / "runs" / "0001-transfer"
    carry_out(Finished, Config(path), out)
    results = json.loads((out / "results.json").read_text())
    assert f"Primary endpoint, {results['primary']['origin']}." in results["verdict"]
    assert f"<td>{results['primary']['origin']}</td>" in (out / "report.html").read_text()
    return results["primary"]["origin"]


def test_a_commit_before_the_run_is_named_with_its_time(endpoint):
    name, time = commit(endpoint)
    assert outcome(endpoint) == f"committed before the run, in {endpoint}: {name} of {time}"
    endpoint.write_text(json.dumps(ENDPOINT | {"note": 1}).replace(', "note": 1', " "))
    assert name in outcome(endpoint)  # kept since the run began


def test_what_was_changed_since_or_committed_later_is_not_known(endpoint):
    commit(endpoint)
    now = datetime.now(UTC)
    assert committed(endpoint, now)
    assert committed(endpoint, now - timedelta(hours=1)) is None
    endpoint.write_text(json.dumps(ENDPOINT, indent=2))
    assert committed(endpoint, now) is None
    unknown = f"stated in {endpoint}, not known to be committed before"
    assert outcome(endpoint) == unknown
    commit(endpoint, "Later")
    assert committed(endpoint, datetime.now(UTC))
    assert outcome(endpoint) == unknown  # the run had begun


@pytest.mark.parametrize("repository", [False, True])
def test_what_is_not_in_git_is_only_stated(endpoint, repository):
    if repository:
        git(endpoint, "init", "-q")
        (endpoint.parent / ".gitignore").write_text("*.json")
    assert outcome(endpoint) == f"stated in {endpoint}, not known to be committed before"


def test_without_git_nothing_is_known(endpoint, monkeypatch):
    commit(endpoint)

    def absent(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(software.subprocess, "run", absent)
    assert committed(endpoint, datetime.now(UTC)) is None


def test_cells_that_were_done_before_anybody_asked_are_no_confirmation(endpoint):
    out = endpoint.parents[1] / "runs" / "0001-transfer"
    outcome(endpoint)
    (out / "cells" / "check-endpoint.json").unlink()
    commit(endpoint)
    assert outcome(endpoint) == f"stated in {endpoint}, not known to be committed before"
