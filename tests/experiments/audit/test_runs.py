import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchio as tio
from bold_runs import AFFINE, PEOPLE

from neuromix.augment import files
from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.data import bids
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.leakage import provenance
from neuromix.experiments.audit import base
from neuromix.experiments.audit.audit import Audit, run
from neuromix.experiments.audit.runs import RunsAudit
from neuromix.experiments.cli.main import main
from neuromix.experiments.frame.findings import CARE, FAULT

FRAMES = 60


def write(folder, runs):
    """Runs as a prepared BIDS derivative."""
    bids.describe(folder, name=folder.name, derivative=True)
    for each in runs:
        stem = f"sub-{each.subject}_task-{each.task}_dir-{each.repeat}"
        func = folder / f"sub-{each.subject}" / "func"
        image = f"{stem}_space-MNI152NLin2009aSym_desc-preproc_bold.nii.gz"
        files.write_nifti(func / image, each.data, AFFINE, tr=each.tr)
        files.write_table(func / f"{stem}_events.tsv", each.events)
    return Cohort.from_bids(folder)


class Given:
    """A sampler that hands out runs that there are already, changed or not."""

    version = 1

    def __init__(self, runs, seen, change=lambda data, events: (data, events), tr=None):
        self.runs, self.change, self.tr = runs, change, tr
        self.record = provenance([seen], [])

    def fingerprint(self):
        return "given"

    def __call__(self, labels, seeds, steps, guidance):
        return [self._make(row) for row in labels]

    def _make(self, labels):
        each = self.runs[int(labels["number"])]
        data, events = self.change(each.data, each.events)
        image = tio.ScalarImage(
            tensor=torch.from_numpy(np.moveaxis(data, 3, 0).astype("f4")), affine=AFFINE,
            RepetitionTime=self.tr or each.tr, events=json.dumps(events.to_numpy().tolist()),
        )  # fmt: skip
        keys = {"task": each.task, "dir": each.repeat}
        return tio.Subject(bold=image, **keys, synthetic=True, synthetic_id="x")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Training and held-out people, and runs of fresh ones that stand for perfect samples."""
    folder = tmp_path_factory.mktemp("audit")
    train, heldout, fresh = (
        [
            replace(each, data=np.pad(each.data, [(4, 4), (4, 3), (4, 5), (0, 0)]))
            for each in PEOPLE.runs(count, seed, repeats=("LR",), frames=FRAMES)
        ]
        for count, seed in ((12, 1), (28, 2), (24, 3))
    )
    cohorts = {name: write(folder / name, runs) for name, runs in
               (("train", train), ("heldout", heldout))}  # fmt: skip
    return folder, cohorts, train, fresh


@pytest.fixture(scope="module")
def audited(parts, tmp_path_factory):
    folder, cohorts, _, fresh = parts

    def look(name, runs=fresh, seen=cohorts["train"], steps=0, **options):
        sampler = Given(runs, seen, **options)
        SampleBank.fill(folder / name, sampler, [{"number": k} for k in range(len(runs))], 0)
        places = (folder / name, folder / "train", folder / "heldout")
        out = tmp_path_factory.mktemp("runs") / "0001-audit"
        with pytest.MonkeyPatch.context() as patch:
            if not steps:  # decoders and pictures take half of the time
                patch.setattr(RunsAudit, "page", lambda *_: "")
                patch.setattr(RunsAudit, "worth", lambda *_: {})
            results = run(Audit(*places, seeds=1, steps=max(steps, 1)), out)
        return results, {f["name"]: f for f in results["findings"]}, out

    return look


def levels(findings, level=FAULT):
    return {what for what, finding in findings.items() if finding["level"] == level}


def test_fresh_people_in_place_of_samples_have_no_fault(audited):
    results, findings, out = audited("fresh", steps=40)
    assert not levels(findings)
    # Fourteen people judge, so that intervals are wide.
    assert levels(findings, CARE) <= {"use for condition"}
    page = (out / "report.html").read_text()
    assert results["verdict"].split(":")[0] in page
    assert page.count("<img") == 3  # responses, nearest, utility
    scores = results["utility"]["condition"]["scores"]
    assert set(scores) == {"real", "synthetic", "both"}


def exchanged(data, events):
    names = sorted(set(events["trial_type"]))
    other = dict(zip(names, names[::-1], strict=True))
    return data, events.assign(trial_type=events["trial_type"].map(other))


def shuffled(data, events):
    return data[..., np.random.default_rng(0).permutation(data.shape[3])], events


def noisy(data, events):
    noise = np.random.default_rng(int(data[8, 8, 7, 0] * 1000)).standard_normal(data.shape)
    return data * (1 + 0.05 * noise), events


PLANTED = {
    "exchanged": (exchanged, {"label condition"}),
    "shuffled": (shuffled, {"time course", "memory"}),
    "noisy": (noisy, {"noise level", "memory"}),
    "units": (lambda data, events: (data / 1000, events), {"units"}),
    "mirrored": (lambda data, events: (data[::-1], events), {"left and right"}),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_named(audited, name):
    change, expected = PLANTED[name]
    results, findings, _ = audited(name, change=change)
    assert expected <= levels(findings)
    assert results["verdict"].startswith("Do not use")
    assert all(f"{what}: " in results["verdict"] for what in expected)


def test_copies_collapse_and_another_tr_are_named(audited, parts):
    _, _, train, fresh = parts
    _, findings, _ = audited("copies", runs=train)
    assert {"copies of courses", "copies of anatomies", "membership"} <= levels(findings)
    _, findings, _ = audited("collapse", runs=[fresh[k % 2] for k in range(30)])
    assert "variety of responses" in levels(findings)
    _, findings, _ = audited("slow", tr=2.5)
    assert "repetition time" in levels(findings)


def test_a_held_out_person_in_the_training_is_named(audited, parts):
    _, cohorts, _, _ = parts
    results, findings, _ = audited("smuggled", seen=cohorts["heldout"], steps=1)
    assert "leak" in levels(findings)
    assert cohorts["heldout"].table["subject_id"].iloc[0] in results["verdict"]
    assert results["utility"] == {}


def test_people_are_compared_and_not_their_runs(parts, monkeypatch):
    folder, cohorts, _, fresh = parts
    SampleBank.fill(
        folder / "some", Given(fresh, cohorts["train"]), [{"number": k} for k in range(24)], 0
    )
    config = Audit(folder / "some", folder / "train", folder / "heldout")
    audit = RunsAudit(config, SampleBank(config.bank), None)
    given = {}
    monkeypatch.setattr(base, "laterality", lambda made, real, *_: given.update(real=real))
    monkeypatch.setattr(base, "membership", lambda *_, people, **__: given.update(who=people))
    audit.anatomy()
    audit.privacy()
    assert len(audit.cohorts["heldout"]) == 28  # two runs of each
    assert len(given["real"]) == 14
    assert [len(set(each)) for each in given["who"]] == [12, 14]


def test_what_cannot_be_audited_is_told_in_a_line(parts, tmp_path, capsys):
    folder, cohorts, _, fresh = parts
    small = folder / "small"
    SampleBank.fill(small, Given(fresh, cohorts["train"]), [{"number": k} for k in range(4)], 0)
    line = ["audit", str(small), "--out", str(tmp_path), "--train", str(folder / "train")]
    assert main([*line, "--heldout", str(folder / "heldout")]) == 2
    assert "the bank has 4 runs; an audit needs 24" in capsys.readouterr().err
