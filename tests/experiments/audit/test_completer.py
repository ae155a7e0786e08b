import json

import numpy as np
import pytest
import torch

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.diffusion.loop import TrainConfig
from neuromix.augment.pds.completer import ModalityCompleter, Posterior
from neuromix.augment.pds.config import ModalityConfig
from neuromix.augment.pds.images import read
from neuromix.augment.phantom import make_phantom
from neuromix.experiments.audit import completer
from neuromix.experiments.audit.audit import Audit, run
from neuromix.experiments.audit.completer import CompleterAudit
from neuromix.experiments.cli.main import main

SHORT = TrainConfig(
    steps=1, batch_size=4, warmup=1, validate_every=1, checkpoint_every=1, log_every=1
)
CONFIG = ModalityConfig(
    directions=("dmri",), width=8, blocks=1, layers=0, token=4, depth=4, folds=2,
    sampling_steps=3, training=SHORT,
)  # fmt: skip
TRULY = ModalityCompleter.posterior


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    data = make_phantom(
        tmp_path_factory.mktemp("data") / "pairs", "paired", subjects=44, seed=5, spacing=12.0
    )
    split = Cohort.from_bids(data).split((0.5, 0.2, 0.3), stratify=(), seed=0)
    folder = tmp_path_factory.mktemp("split")
    split.save(folder)
    ModalityCompleter.fit(split.train, CONFIG, folder / "completer", validation=split.val)
    return folder, split


def audited(parts, out, **other):
    folder = parts[0]
    given = {"train": folder / "train.tsv", "heldout": folder / "test.tsv", **other}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CompleterAudit, "page", lambda *_: "")  # it completes people for pictures
        results = run(Audit(folder / "completer", **given), out)
    return results, {f["name"]: f["level"] for f in results["findings"] if f["level"] != "fine"}


def planted(change):
    """A completer whose samples (K, N, X, Y, Z) are changed before anybody sees them."""

    def posterior(self, subject, want, seed, samples=16, labels=None):
        made = TRULY(self, subject, want, seed, samples, labels)
        changed = change(made.samples, subject)
        image = type(made.mean)(
            tensor=torch.from_numpy(changed.mean(axis=0)), affine=made.mean.affine
        )
        return Posterior(image, made.deviation, changed, made.error, made.doubts)

    return posterior


def test_a_completer_is_fit_for_use_and_the_page_says_why(parts, tmp_path, monkeypatch):
    folder, _ = parts
    command = ["audit", str(folder / "completer"), "--out", str(tmp_path)]
    command += ["--train", str(folder / "train.tsv"), "--heldout", str(folder / "test.tsv")]
    assert main(command) == 0
    results = json.loads((tmp_path / "0001-audit" / "results.json").read_text())
    faults = [f for f in results["findings"] if f["level"] == "fault"]
    assert not faults, faults
    notes = {f["name"]: f["note"] for f in results["findings"]}
    assert {"leak", "origin", "accuracy of dmri", "source of dmri", "whose dmri"} <= set(notes)
    page = (tmp_path / "0001-audit" / "report.html").read_text()
    assert "one sample" in page or "<img" in page
    assert results["verdict"] in page.replace("&#x27;", "'")

    def refuse(*args, **options):
        raise AssertionError("done again")

    monkeypatch.setattr(completer, "completion_table", refuse)
    assert main(command) == 0  # finished parts are only read


def mirrored(samples, subject):
    return samples[:, :, ::-1].copy()


def blurred(samples, subject):
    from scipy import ndimage

    return ndimage.gaussian_filter(samples, (0, 0, 1, 1, 1))


def sure(samples, subject):
    return np.repeat(samples[:1], len(samples), axis=0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (mirrored, "left and right of dmri"),
        (blurred, "detail of dmri"),
        (sure, "uncertainty of dmri"),
        (lambda samples, subject: 1000 * samples, "units of dmri"),
    ],
    ids=["mirrored", "blurred", "sure", "units"],
)
def test_a_planted_fault_is_named(parts, tmp_path, monkeypatch, change, named):
    monkeypatch.setattr(ModalityCompleter, "posterior", planted(change))
    results, bad = audited(parts, tmp_path)
    assert bad.get(named) == "fault", results["findings"]
    assert named in results["verdict"]


def test_a_source_that_is_not_used_and_copies_are_named(parts, tmp_path, monkeypatch):
    first = read(parts[1].train.subjects()[0]["dmri"], "dmri").numpy()

    def copied(samples, subject):
        return np.stack([first] * len(samples)) + 0.01 * samples

    monkeypatch.setattr(ModalityCompleter, "posterior", planted(copied))
    results, bad = audited(parts, tmp_path)
    assert {"accuracy of dmri", "whose dmri"} <= {k for k, v in bad.items() if v == "fault"}
    (whose,) = [f["note"] for f in results["findings"] if f["name"] == "whose dmri"]
    assert "nearest to a training person" in whose
    average = np.mean([read(s["dmri"], "dmri").numpy() for s in parts[1].train.subjects()], axis=0)
    monkeypatch.setattr(
        ModalityCompleter, "posterior",
        planted(lambda samples, _: np.stack([average] * len(samples)).astype(np.float32)),
    )  # fmt: skip
    results, bad = audited(parts, tmp_path / "blind")
    assert bad["source of dmri"] == "fault"
    assert "the source is not used" in results["verdict"]


def test_a_held_out_person_in_the_training_is_named(parts, tmp_path):
    folder, _ = parts
    results, bad = audited(parts, tmp_path, train=folder / "val.tsv", heldout=folder / "train.tsv")
    assert bad["leak"] == "fault"
    assert results["verdict"].startswith("Do not use")


def test_what_cannot_be_audited_is_one_line(parts, tiny_pairs, tmp_path, capsys):
    folder, split = parts
    few = split.test.where(np.arange(len(split.test)) < 3)
    few.save(tmp_path / "few.tsv")
    command = ["audit", str(folder / "completer"), "--out", str(tmp_path / "runs")]
    command += ["--train", str(folder / "train.tsv"), "--heldout", str(tmp_path / "few.tsv")]
    assert main(command) == 2
    assert "has 3 people with fmri and dmri" in capsys.readouterr().err
    assert not list((tmp_path / "runs").glob("*"))
