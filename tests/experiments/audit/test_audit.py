import html
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torchio as tio
from scipy import ndimage

from neuromix.augment import files
from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.leakage import provenance
from neuromix.augment.errors import InputError
from neuromix.augment.phantom import make_phantom
from neuromix.experiments.audit import audit, base
from neuromix.experiments.audit.audit import Audit, run
from neuromix.experiments.audit.maps import MapAudit
from neuromix.experiments.cli.main import main
from neuromix.experiments.frame.findings import CARE, FAULT, FINE, Finding


class Given:
    """A sampler that hands out subjects that there are already, changed or not."""

    version = 1
    image = "md"

    def __init__(self, cohort, seen, change=lambda volumes: volumes):
        subjects = cohort.subjects()
        volumes = cohort.volumes(self.image)
        self.affine = cohort.grid(self.image).affine
        self.rows = [{n: s[n] for n in ("sex", "diagnosis", "age")} for s in subjects]
        self.volumes = change(volumes).astype(np.float32)
        self.record = provenance([seen], [])

    def fingerprint(self):
        return f"{self.volumes.sum():.6f}"

    def __call__(self, labels, seeds, steps, guidance):
        return [self._make(row) for row in labels]

    def _make(self, labels):
        place = next(k for k, row in enumerate(self.rows) if row["age"] == labels["age"])
        image = tio.ScalarImage(
            tensor=torch.from_numpy(self.volumes[place][None].copy()), affine=self.affine
        )
        keys = {"dataset": "neuromix", "subject_id": "x", "session_id": ""}
        marks = {"synthetic": True, "synthetic_id": "x"}
        return tio.Subject({self.image: image, **keys, **labels, **marks})


def swapped(rows):
    sex = {"F": "M", "M": "F"}
    stage = {"NC": "AD", "AD": "NC", "MCI": "MCI"}
    return [row | {"sex": sex[row["sex"]], "diagnosis": stage[row["diagnosis"]]} for row in rows]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Training subjects, held-out ones, and fresh ones that stand for perfect samples."""
    folder = tmp_path_factory.mktemp("audit")
    made = make_phantom(folder / "phantom", "md", subjects=220, seed=5, spacing=8.0)
    split = Cohort.from_bids(made).split((0.28, 0.32, 0.4), seed=0)
    split.save(folder / "split")
    return folder, split


@pytest.fixture(scope="module")
def audited(parts, tmp_path_factory):
    folder, (train, fresh, _) = parts

    def look(name, change=lambda v: v, source=fresh, seen=train, relabel=list, steps=0):
        sampler = Given(source, seen, change)
        bank = folder / name
        wanted = relabel(sampler.rows)
        SampleBank.fill(bank, sampler, wanted, 0)
        config = Audit(
            bank, folder / "split" / "train.tsv", folder / "split" / "test.tsv",
            seeds=1, steps=max(steps, 1),
        )  # fmt: skip
        out = look.folder = tmp_path_factory.mktemp("runs") / "0001-audit"
        with pytest.MonkeyPatch.context() as patch:
            if not steps:  # classifiers of utility and pictures take half of the time
                patch.setattr(MapAudit, "utility", lambda _: {})
                patch.setattr(MapAudit, "page", lambda *_: "")
            results = run(config, out)
        return results, {f["name"]: f for f in results["findings"]}

    return look


def faults(findings):
    return {what for what, finding in findings.items() if finding["level"] == FAULT}


def test_fresh_subjects_in_place_of_samples_have_no_fault(audited):
    results, findings = audited("fresh", steps=30)
    assert not faults(findings)
    cares = {what for what, finding in findings.items() if finding["level"] == CARE}
    assert cares <= {"label sex", "label dementia", "units"}  # few subjects, so wide intervals
    page = (audited.folder / "report.html").read_text()
    assert results["verdict"] in html.unescape(page)
    assert page.count("<img") == 3  # pairs, nearest, utility
    assert set(results["utility"]) == {"sex", "dementia"}


PLANTED = {
    "collapse": (lambda v: np.repeat(v.mean(0, keepdims=True), len(v), 0), {"variety"}),
    "blur": (lambda v: ndimage.gaussian_filter(v, (0, 0.7, 0.7, 0.7)),
             {"detail", "structure", "distance", "variety"}),
    "noise": (lambda v: np.abs(v + 0.3 * np.random.default_rng(0).standard_normal(v.shape)),
              {"detail", "range", "variety"}),
    "jitter": (lambda v: v * np.random.default_rng(0).normal(1, 0.2, (len(v), 1, 1, v.shape[-1])),
               {"slices"}),
    "units": (lambda v: v / 1000, {"units", "range"}),
    "mirrored": (lambda v: v[:, ::-1], {"left and right"}),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_named(audited, name):
    change, expected = PLANTED[name]
    results, findings = audited(name, change)
    assert expected <= faults(findings)
    assert results["verdict"].startswith("Do not use")
    assert all(f"{what}: " in results["verdict"] for what in expected)


class Slabs(Given):
    """Of t1."""

    image = "t1"


def test_slabs_of_another_unit_and_space_are_judged_as_maps_of_md_are(parts, tmp_path):
    found = {}
    for name, part in zip(("train", "fresh", "test"), parts[1], strict=True):
        volumes, grid = part.volumes("md")[..., 8:16], part.grid("md")
        paths = [tmp_path / f"{name}-{k}.nii" for k in range(len(part))]
        for path, volume in zip(paths, volumes, strict=True):
            files.write_nifti(path, 80 * volume, grid.affine, space="scanner")
        table = part.table.drop(columns="md_path").assign(t1_path=list(map(str, paths)))
        Cohort(table, part.name).save(tmp_path / f"{name}.tsv")
        found[name] = Cohort.load(tmp_path / f"{name}.tsv")
    for change, expected in ((1, set()), (2, {"range"})):
        sampler = Slabs(found["fresh"], found["train"], lambda v, c=change: v * np.float32(c))
        bank = SampleBank.fill(tmp_path / f"bank-{change}", sampler, sampler.rows, 0)
        config = Audit(
            bank.path, tmp_path / "train.tsv", tmp_path / "test.tsv", seeds=1, steps=1,
        )  # fmt: skip
        rows = {row["name"]: row for row in run(config, tmp_path / "runs")["findings"]}
        assert "tissues are left out: the maps are not in MNI152" in rows["units"]["note"]
        shown = {what for what, row in rows.items() if row["level"] == FAULT}
        assert expected <= shown
        assert bool(shown - {"label sex", "label dementia"}) == bool(expected)
        assert "use for sex" in rows


def test_copies_are_named(audited, parts):
    _, (train, _, _) = parts
    _, findings = audited("copies", lambda v: v + 0.001 * (v > 0), source=train)
    assert {"copies", "nearness", "membership"} <= faults(findings)


def test_copies_among_others_are_named(audited, parts):
    _, (train, fresh, _) = parts
    mixed = np.concatenate([train.volumes("md")[:30], fresh.volumes("md")[30:]])
    _, findings = audited("some copies", lambda _: mixed)
    assert "copies" in faults(findings)
    assert findings["structure"]["level"] == findings["distance"]["level"] == FINE
    assert "pieces of a training person" in findings["copies"]["note"]


def test_wrong_labels_are_named(audited):
    _, findings = audited("wrong", relabel=swapped)
    assert "label sex" in faults(findings)
    assert "labels are wrong" in findings["label sex"]["note"]


def test_a_held_out_subject_in_the_training_is_named(audited, parts):
    _, (train, _, heldout) = parts
    smuggled = Cohort(
        pd.concat([train.table, heldout.table.iloc[:1]], ignore_index=True), train.name
    )
    results, findings = audited("smuggled", seen=smuggled, steps=1)
    assert faults(findings) == {"leak"}
    assert heldout.table["subject_id"].iloc[0] in results["verdict"]
    assert results["utility"] == {}


def test_a_run_that_was_stopped_goes_on_and_another_bank_is_refused(parts, audited, tmp_path):
    folder, (train, fresh, _) = parts
    paths = {"train": folder / "split" / "train.tsv", "heldout": folder / "split" / "test.tsv"}
    config = Audit(folder / "fresh", **paths, seeds=1, steps=1)
    out = tmp_path / "0001-audit"
    first = run(config, out)
    kept = {path: path.stat().st_mtime_ns for path in (out / "cells").glob("*.json")}
    again = out / "cells" / "part-anatomy.json"
    again.unlink()
    assert run(config, out)["findings"] == first["findings"]
    assert {p for p, t in kept.items() if p.stat().st_mtime_ns != t} == {again}
    sampler = Given(fresh, train)
    SampleBank.fill(folder / "other", sampler, sampler.rows[:30], 0)
    with pytest.raises(InputError, match="holds a run with bank"):
        run(replace(config, bank=folder / "other"), out)


class Counting:
    """An audit that only counts how often it looks."""

    looks = 0

    def __init__(self, config, made, frame):
        self.frame = frame

    def parts(self):
        return {"look": self.frame.cell({"part": "look"}, self.look)}

    def look(self):
        type(self).looks += 1
        return {}

    def findings(self, parts):
        return [Finding("look", FINE, "it looked")]

    def page(self, results):
        return ""


def test_what_is_mended_is_audited_anew_and_another_name_is_not(
    md_phantom, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(audit, "MapAudit", Counting)
    train, _, test = Cohort.from_bids(md_phantom).split((0.5, 0.0, 0.5), seed=0)
    sampler = Given(train, train)
    bank = SampleBank.fill(tmp_path / "bank", sampler, sampler.rows, 0)
    train.save(tmp_path / "train.tsv")
    test.save(tmp_path / "test.tsv")

    def looks(name):
        run(Audit(bank.path, tmp_path / "train.tsv", tmp_path / name), tmp_path / "runs")
        return Counting.looks, capsys.readouterr().out

    assert looks("test.tsv")[0] == 1
    test.save(tmp_path / "other.tsv")
    assert looks("other.tsv")[0] == 1
    mended = test.table.assign(age=[*test.table["age"][:-1], 99.0])
    Cohort(mended, test.name).save(tmp_path / "test.tsv")
    count, said = looks("test.tsv")
    assert count == 2
    assert f"1 of {len(test)} rows of test.tsv changed since" in " ".join(said.split())
    sample = next(bank.path.rglob("*.nii"))
    content = bytearray(sample.read_bytes())
    content[-2] ^= 1
    sample.write_bytes(content)
    count, said = looks("test.tsv")
    assert count == 3
    assert f"1 of {len(bank)} images of bank changed since" in " ".join(said.split())


def test_what_cannot_be_audited_is_told_in_a_line(parts, tmp_path, capsys):
    folder, (_, _, heldout) = parts
    train, test = folder / "split" / "train.tsv", folder / "split" / "test.tsv"
    heldout.where(np.arange(len(heldout)) < 20).save(tmp_path / "few.tsv")
    line = ["audit", str(folder / "fresh"), "--out", str(tmp_path), "--train"]
    for others, words in {
        (train, train): "subjects are in --train and in --heldout",
        (train, tmp_path / "few.tsv"): "half of --heldout has 10 people; an audit needs 12",
        (tmp_path / "none", test): "does not exist",
    }.items():
        assert main([*line, str(others[0]), "--heldout", str(others[1])]) == 2
        assert words in capsys.readouterr().err


def test_people_are_compared_and_not_their_scans(parts, audited, tmp_path, monkeypatch):
    """With each scan given twice, as two sessions, everything has the people that it had before."""
    folder, _ = parts
    if not (folder / "fresh").is_dir():
        audited("fresh")
    paths = {}
    for name in ("train", "test"):
        once = Cohort.load(folder / "split" / f"{name}.tsv")
        table = pd.concat([once.table.assign(session_id=session) for session in "12"])
        paths[name] = tmp_path / f"{name}.tsv"
        Cohort(table.reset_index(drop=True), once.name).save(paths[name])
    config = Audit(folder / "fresh", paths["train"], paths["test"])
    audit = MapAudit(config, SampleBank(config.bank), None)
    heldout, train = (audit.cohorts[part] for part in ("heldout", "train"))
    assert len(heldout) == len(heldout.subject_keys)
    assert len(train) == 2 * len(train.subject_keys)
    given = []
    monkeypatch.setattr(base, "membership", lambda *_, people, **__: given.extend(people))
    audit.privacy()
    assert [len(set(each)) for each in given] == [len(train.subject_keys), len(heldout)]
