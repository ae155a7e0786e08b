import json
import math

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torchio as tio

from neuromix.augment.data.cohort import Cohort, Split
from neuromix.augment.errors import InputError

MD = "sub-{0}/dwi/sub-{0}_param-md_dwimap.nii"


def write(root, texts):
    """Write files: a text, an object as JSON, rows as a TSV, or None for an empty image."""
    for name, content in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            content = json.dumps(content)
        elif isinstance(content, list):
            content = "".join("\t".join(row.split()) + "\n" for row in content)
        path.write_text(content or "")


def column(cohort, name):
    return list(cohort.table[name])


def made(**columns):
    return Cohort(pd.DataFrame(columns), "made")


def many(subjects=60, sites=6):
    """A cohort with two sessions a subject, in which subject n is at site n mod sites."""
    n = np.repeat(np.arange(subjects), 2)
    return made(
        subject_id=[f"{i:03d}" for i in n],
        session_id=["1", "2"] * subjects,
        site=[f"S{i % sites}" for i in n],
        sex=np.where(n % 2, "F", "M"),
        diagnosis=np.array(["NC", "MCI", "AD"])[n // 2 % 3],
        md_path=[f"/data/{i}_{session}.nii" for i in n for session in "1"],
    )


class TestFromBids:
    def test_a_raw_dataset(self, tmp_path):
        write(
            tmp_path,
            {
                "dataset_description.json": {"Name": "Our study"},
                "participants.tsv": [
                    "participant_id age sex site group hand",
                    "sub-001 71.5 1 A CN left",
                    "sub-002 n/a 2 B n/a right",
                    "sub-009 50 1 B AD right",
                ],
                "participants.json": {"sex": {"Levels": {"1": "female", "2": "male"}}},
                MD.format("001"): None,
                MD.format("002"): None,
                MD.format("003"): None,
                "sub-001/anat/sub-001_T1w.nii.gz": None,
            },
        )
        cohort = Cohort.from_bids(tmp_path, columns={"diagnosis": "group"})
        assert cohort.name == "Our study"
        assert cohort.images == ("md",)
        assert column(cohort, "subject_id") == ["001", "002", "003"]
        assert column(cohort, "sex") == ["F", "M", ""]
        assert column(cohort, "diagnosis") == ["NC", "", ""]
        assert column(cohort, "site") == ["A", "B", ""]
        assert column(cohort, "hand") == ["left", "right", ""]
        assert cohort.table["age"][0] == 71.5
        assert cohort.table["age"][1:].isna().all()
        assert column(cohort, "md_path")[0] == str(tmp_path / MD.format("001"))
        both = Cohort.from_bids(tmp_path, images=("md", "t1w"))
        assert both.images == ("md", "t1w")
        assert column(both, "t1w_path")[1:] == ["", ""]

    def test_labels_of_a_session_come_from_sessions_tsv(self, tmp_path):
        write(
            tmp_path,
            {
                "participants.tsv": ["participant_id sex diagnosis", "sub-1 F CN", "sub-2 M CN"],
                "sub-1/sub-1_sessions.tsv": [
                    "session_id diagnosis age",
                    "ses-a n/a 70",
                    "ses-b MCI 72",
                ],
                "sub-1/ses-a/dwi/sub-1_ses-a_MD.nii": None,
                "sub-1/ses-b/dwi/sub-1_ses-b_MD.nii": None,
                "sub-2/ses-a/dwi/sub-2_ses-a_MD.nii": None,
            },
        )
        cohort = Cohort.from_bids(tmp_path)
        assert column(cohort, "session_id") == ["a", "b", "a"]
        assert column(cohort, "diagnosis") == ["NC", "MCI", "NC"]
        assert column(cohort, "sex") == ["F", "F", "M"]
        assert column(cohort, "age")[:2] == [70, 72]
        assert math.isnan(column(cohort, "age")[2])

    def test_labels_of_a_session_come_from_participants_with_sessions(self, tmp_path):
        write(
            tmp_path,
            {
                "participants.tsv": [
                    "participant_id session_id diagnosis",
                    "sub-1 ses-a CN",
                    "sub-1 ses-b AD",
                ],
                "sub-1/ses-a/dwi/sub-1_ses-a_MD.nii": None,
                "sub-1/ses-b/dwi/sub-1_ses-b_MD.nii": None,
            },
        )
        assert column(Cohort.from_bids(tmp_path), "diagnosis") == ["NC", "AD"]

    def test_two_rows_of_one_participant_are_refused(self, tmp_path):
        people = ["participant_id sex", "sub-1 F", "sub-1 M"]
        write(tmp_path, {"participants.tsv": people, MD.format(1): None})
        with pytest.raises(InputError, match="tells two things of 1"):
            Cohort.from_bids(tmp_path)

    def test_a_derivative_has_no_participants(self, tmp_path):
        write(tmp_path / "study", {MD.format(1): None})
        cohort = Cohort.from_bids(tmp_path / "study")
        assert cohort.name == "study"
        assert column(cohort, "sex") == [""]

    def test_a_derivative_inside_a_dataset_knows_its_subjects(self, tmp_path):
        write(
            tmp_path,
            {
                "dataset_description.json": {"Name": "Raw"},
                "participants.tsv": ["participant_id sex", "sub-1 F"],
                "derivatives/fit/dataset_description.json": {"Name": "Fit"},
                "derivatives/fit/" + MD.format(1): None,
            },
        )
        cohort = Cohort.from_bids(tmp_path / "derivatives" / "fit")
        assert (cohort.name, column(cohort, "sex")) == ("Raw", ["F"])

    def test_labels_that_match_no_image_warn(self, tmp_path):
        people = ["participant_id sex", "sub-01 F"]
        write(tmp_path, {"participants.tsv": people, MD.format(1): None})
        with pytest.warns(UserWarning, match="all labels are missing"):
            Cohort.from_bids(tmp_path)

    def test_an_unknown_label_is_refused(self, tmp_path):
        people = ["participant_id sex", "sub-1 X"]
        write(tmp_path, {"participants.tsv": people, MD.format(1): None})
        with pytest.raises(InputError, match="sex 'X' is not known; allowed are f, female"):
            Cohort.from_bids(tmp_path)
        cohort = Cohort.from_bids(tmp_path, codings={"sex": {"X": "F"}})
        assert column(cohort, "sex") == ["F"]

    def test_a_column_that_is_not_there_is_refused(self, tmp_path):
        people = ["participant_id sex", "sub-1 F"]
        write(tmp_path, {"participants.tsv": people, MD.format(1): None})
        with pytest.raises(InputError, match=r"'group'.*participant_id"):
            Cohort.from_bids(tmp_path, columns={"diagnosis": "group"})

    def test_runs_are_rows(self, tmp_path):
        bold = "sub-1/func/sub-1_task-{}_dir-{}_bold.nii.gz"
        runs = [("motor", "LR"), ("motor", "RL"), ("wm", "LR")]
        write(tmp_path, {MD.format(1): None, **{bold.format(*run): None for run in runs}})
        cohort = Cohort.from_bids(tmp_path)
        assert list(zip(column(cohort, "task"), column(cohort, "dir"), strict=True)) == runs
        assert len(set(column(cohort, "bold_path"))) == 3
        assert len(set(column(cohort, "md_path"))) == 1

    def test_of_two_files_the_one_in_the_common_space_is_taken(self, tmp_path):
        func = "sub-1/func/sub-1_task-rest_"
        native, common = func + "desc-preproc_bold.nii.gz", func + "space-MNI152Lin_bold.nii.gz"
        write(tmp_path, {native: None, common: None})
        assert column(Cohort.from_bids(tmp_path), "bold_path") == [str(tmp_path / common)]
        chosen = Cohort.from_bids(tmp_path, space="")
        assert column(chosen, "bold_path") == [str(tmp_path / native)]

    def test_two_files_for_one_image_are_ambiguous(self, tmp_path):
        func = "sub-1/func/sub-1_task-rest_"
        names = [func + f"space-MNI152{space}_bold.nii.gz" for space in ("A", "B")]
        write(tmp_path, dict.fromkeys(names))
        with pytest.raises(InputError) as error:
            Cohort.from_bids(tmp_path)
        assert all(name in str(error.value) for name in names)
        assert "space='MNI152A' or 'MNI152B'" in str(error.value)
        cohort = Cohort.from_bids(tmp_path, space="MNI152B")
        assert column(cohort, "bold_path") == [str(tmp_path / names[1])]

    @pytest.mark.parametrize(
        ("files", "options", "reason"),
        [
            ({}, {}, "looked for .nii .* the folder has nothing"),
            ({"a.dcm": None}, {}, "the folder has a.dcm"),
            ({"sub-1/anat/sub-1_T1w.nii": None}, {}, r"it has 1 t1w; .*images=\['t1w'\]"),
            ({MD.format(1): None}, {"images": ("md", "bold")}, "no bold image; it has 1 md"),
            ({MD.format(1): None}, {"images": ("MD",)}, "has no MD image; it has 1 md"),
            ({MD.format(1): None}, {"space": "X"}, "no md .*'space': 'X'.*space is ''"),
            ({MD.format(1): None}, {"image": "md"}, "'image' is not a BIDS entity"),
        ],
    )
    def test_no_image_says_what_was_looked_for(self, tmp_path, files, options, reason):
        write(tmp_path, files)
        with pytest.raises(InputError, match=reason):
            Cohort.from_bids(tmp_path, **options)


class TestFromTable:
    def test_the_dataset_is_told_by_column_argument_or_folder_and_not_by_the_file(self, tmp_path):
        def read(*lines, **options):
            write(tmp_path, {"train.tsv": list(lines)})
            cohort = Cohort.from_table(tmp_path / "train.tsv", {"md": "md_path"}, **options)
            return cohort.table["dataset"].tolist()

        bare, named = ("subject_id md_path", "1 a", "2 b"), (
            "subject_id md_path dataset", "1 a ADNI", "2 b n/a",
        )  # fmt: skip
        assert read(*bare) == ["unnamed:train.tsv"] * 2
        assert read(*bare, dataset="OASIS") == ["OASIS"] * 2
        assert read(*named, dataset="OASIS") == ["ADNI", "OASIS"]
        with pytest.warns(UserWarning, match="changes nothing"):
            assert read(*named[:2], dataset="OASIS") == ["ADNI"]
        (tmp_path / "dataset_description.json").write_text('{"Name": "CamCAN"}')
        assert read(*bare) == ["CamCAN"] * 2

    @pytest.mark.parametrize(("name", "separator"), [("t.csv", ","), ("t.tsv", "\t")])
    def test_paths_are_relative_to_the_table(self, tmp_path, name, separator):
        lines = ["Subject,Session,Gender,DX,md,fa_path", "001,1,Male,LMCI,maps/1.nii,x", "2,,,,,"]
        (tmp_path / name).write_text("\n".join(lines).replace(",", separator))
        cohort = Cohort.from_table(tmp_path / name, images={"md": "md"})
        assert cohort.name == name
        assert cohort.images == ("md",)
        assert not {"md", "fa_path"} & set(cohort.table.columns)
        first, second = cohort.table.to_dict("records")
        assert first["subject_id"] == "001"
        assert (first["session_id"], first["sex"], first["diagnosis"]) == ("1", "M", "MCI")
        assert first["md_path"] == str(tmp_path / "maps/1.nii")
        assert (second["sex"], second["diagnosis"], second["md_path"]) == ("", "", "")

    @pytest.mark.parametrize(
        ("header", "reason"),
        [
            ("subject,map", "no column 'md_path'; it has subject, map"),
            ("person,md_path", "no column subject_id or .*; it has person, md_path"),
        ],
    )
    def test_a_missing_column_is_refused(self, tmp_path, header, reason):
        (tmp_path / "t.csv").write_text(header + "\n1,2\n")
        with pytest.raises(InputError, match=reason):
            Cohort.from_table(tmp_path / "t.csv", images={"md": "md_path"})

    def test_a_row_without_subject_is_refused(self, tmp_path):
        (tmp_path / "t.csv").write_text("subject,md\n1,a.nii\n,b.nii\n")
        with pytest.raises(InputError, match="row 2 has no subject_id"):
            Cohort.from_table(tmp_path / "t.csv", images={"md": "md"})


class TestTable:
    def test_saved_and_loaded_it_is_the_same(self, tmp_path):
        cohort = made(
            dataset="x",
            subject_id=["001", "NA", "3"],
            session_id=["", "1", "02"],
            age=[71.1, 0.1 + 0.2, np.nan],
            sex=["F", "", "M"],
            weight=[1.5, 2.25, np.nan],
            note=['tab\there "quoted"', "", "line\nbreak"],
            md_path=[str(tmp_path / "data/a b.nii"), "", "/elsewhere/c.nii"],
        )
        cohort.save(tmp_path / "tables" / "cohort.tsv")
        loaded = Cohort.load(tmp_path / "tables" / "cohort.tsv")
        pd.testing.assert_frame_equal(loaded.table, cohort.table)
        text = (tmp_path / "tables" / "cohort.tsv").read_text()
        assert "../data/a b.nii" in text
        assert "n/a" in text

    def test_a_table_tells_its_images_by_the_names_of_its_columns(self, tmp_path):
        write(tmp_path, {"cohort.csv": ["participant_id,t1_path,fa_path", "1,a.nii,b.nii"]})
        cohort = Cohort.from_table(tmp_path / "cohort.csv", dataset="D")
        assert cohort.images == ("t1", "fa")
        assert cohort.table["t1_path"][0] == str(tmp_path / "a.nii")

    def test_what_is_no_saved_cohort_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="No such file"):
            Cohort.load(tmp_path / "cohort.tsv")
        write(tmp_path, {"cohort.tsv": ["participant_id age", "1 2"]})
        with pytest.raises(
            InputError, match=r"it has participant_id, age; add .* t1_path.*from_table"
        ):
            Cohort.load(tmp_path / "cohort.tsv")

    def test_an_empty_cohort_is_saved_and_loaded(self, tmp_path):
        empty = many().where(site="nowhere")
        empty.save(tmp_path / "empty.tsv")
        assert len(Cohort.load(tmp_path / "empty.tsv")) == 0

    def test_a_choice_between_columns_survives_saving(self, tmp_path):
        (tmp_path / "t.csv").write_text("subject,sex,gender,md\n1,M,female,a.nii\n")
        chosen = {"sex": "sex"}
        cohort = Cohort.from_table(tmp_path / "t.csv", {"md": "md"}, columns=chosen)
        cohort.save(tmp_path / "cohort.tsv")
        assert column(Cohort.load(tmp_path / "cohort.tsv"), "sex") == ["M"]

    def test_where(self):
        cohort = many()
        kept = cohort.where(cohort.table["session_id"] == "2", diagnosis=("NC", "AD"), site="S0")
        assert set(column(kept, "diagnosis")) <= {"NC", "AD"}
        assert set(column(kept, "site")) == {"S0"}
        assert set(column(kept, "session_id")) == {"2"}
        with pytest.raises(InputError, match="no column 'group'; it has dataset"):
            cohort.where(group="NC")

    def test_a_label_outside_the_allowed_ones_is_refused(self):
        with pytest.raises(InputError, match=r"'female' is not allowed.*F, M"):
            made(subject_id=["1"], sex=["female"], md_path=["a"])

    def test_summary_counts_subjects_and_sessions(self):
        summary = many().summary()
        assert summary["subjects"].sum() == 60
        assert summary["sessions"].sum() == 120
        assert list(summary.columns)[:4] == ["dataset", "site", "diagnosis", "sex"]

    def test_repr_is_short(self):
        assert repr(many()) == ("Cohort 'made': 60 subjects, 120 sessions, 120 rows, images md")


class TestSubjects:
    @pytest.fixture()
    def cohort(self, tmp_path):
        data = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
        for name in "ab":
            nib.Nifti1Image(data, np.eye(4)).to_filename(tmp_path / f"{name}.nii")
        return made(
            subject_id=["1", "2"],
            age=[70, np.nan],
            sex=["F", ""],
            md_path=[str(tmp_path / "a.nii"), str(tmp_path / "b.nii")],
            t1w_path=[str(tmp_path / "a.nii"), ""],
        )

    def test_images_are_lazy_and_absent_ones_have_no_key(self, cohort):
        first, second = cohort.subjects()
        assert isinstance(first["md"], tio.ScalarImage)
        assert not first["md"]._loaded
        assert "t1w" in first
        assert "t1w" not in second
        assert first["synthetic"] is False
        assert first["synthetic_id"] == ""

    def test_missing_labels_are_collated(self, cohort):
        cohort = Cohort(cohort.table.drop(columns="t1w_path"))
        batch = next(iter(tio.SubjectsLoader(cohort.dataset(), batch_size=2)))
        assert batch["md"]["data"].shape == (2, 1, 2, 2, 2)
        assert batch["sex"] == ["F", ""]
        assert batch["diagnosis"] == ["", ""]
        assert batch["age"][0] == 70
        assert batch["age"][1].isnan()
        assert batch["synthetic"].tolist() == [False, False]

    def test_a_transform_is_applied(self, cohort):
        dataset = cohort.dataset(tio.Lambda(lambda data: data + 1))
        assert dataset[0]["md"].data.max() == 8

    def test_an_absent_file_is_named(self, cohort, tmp_path):
        (tmp_path / "b.nii").unlink()
        with pytest.raises(InputError, match=r"1 of 3 image files are absent.*b.nii"):
            cohort.subjects()

    def test_a_path_of_windows_is_explained(self, cohort):
        windows = Cohort(cohort.table.assign(md_path="maps\\a.nii"))
        with pytest.raises(InputError, match="a backslash is no separator here"):
            windows.subjects()

    def test_duplicates_can_be_made_but_not_used(self, cohort):
        twice = Cohort(pd.concat([cohort.table, cohort.table[:1]]))
        for use in (twice.subjects, twice.split):
            with pytest.raises(
                InputError, match=r"occur twice, such as dataset 'made', subj.* '1'"
            ):
                use()


class TestSplit:
    def test_no_subject_is_in_two_parts(self):
        parts = many().split()
        keys = [set(part.subject_keys) for part in parts]
        assert [len(key) for key in keys] == [42, 9, 9]
        assert len(set.union(*keys)) == 60
        assert all(part.table["session_id"].value_counts().nunique() == 1 for part in parts)

    def test_strata_are_spread(self):
        for part in many().split():
            sexes = part.table.groupby(["diagnosis", "sex"])["subject_id"].nunique()
            assert sexes.max() - sexes.min() <= 1

    def test_the_last_session_tells_the_stratum(self):
        cohort = made(
            subject_id=np.repeat([f"{i:02d}" for i in range(20)], 2),
            session_id=["2", "10"] * 20,
            diagnosis=["NC", "NC"] * 10 + ["NC", "AD"] * 10,
            md_path="x.nii",
        )
        parts = cohort.split((0.5, 0.0, 0.5), stratify=("diagnosis",))
        assert [(part.table["diagnosis"] == "AD").sum() for part in parts] == [5, 0, 5]

    def test_the_seed_decides_and_row_order_does_not(self):
        cohort = many()
        shuffled = Cohort(cohort.table.sample(frac=1, random_state=0), cohort.name)
        for a, b in zip(cohort.split(seed=3), shuffled.split(seed=3), strict=True):
            assert set(a.subject_keys) == set(b.subject_keys)
        others = [set(cohort.split(seed=seed).test.subject_keys) for seed in range(4)]
        assert len(set(map(frozenset, others))) == 4

    def test_subjects_of_two_datasets_are_different_people(self):
        cohort = many(10)
        table = pd.concat([cohort.table, cohort.table.assign(dataset="other")])
        assert sum(len(part.subject_keys) for part in Cohort(table).split()) == 20

    @pytest.mark.parametrize("seed", range(5))
    def test_sites_are_kept_apart(self, seed):
        cohort = many(60, sites=20)
        moved = cohort.table["subject_id"].eq("000") & cohort.table["session_id"].eq("2")
        cohort.table.loc[moved, "site"] = "S5"
        parts = cohort.split(separate_sites=True, seed=seed)
        sites = [set(part.table["site"]) for part in parts]
        assert sum(map(len, sites)) == 20
        assert any({"S0", "S5"} <= part for part in sites)
        assert abs(len(parts.train.subject_keys) - 42) <= 3

    def test_strata_are_not_needed(self):
        assert [len(part.subject_keys) for part in many().split(stratify=())] == [42, 9, 9]

    def test_one_name_is_taken_for_a_list_of_one(self, tmp_path):
        one, listed = many().split(stratify="sex"), many().split(stratify=["sex"])
        assert one.test.subject_keys == listed.test.subject_keys
        write(tmp_path, {MD.format(1): None})
        assert Cohort.from_bids(tmp_path, images="md").images == ("md",)

    def test_three_subjects_are_enough(self):
        assert [len(part.subject_keys) for part in many(3).split()] == [1, 1, 1]

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"fractions": (0.8, 0.2)}, "three numbers"),
            ({"fractions": (0.8, 0.3, -0.1)}, "three numbers"),
            ({"fractions": (0.8, 0.3, 0.1)}, "sum to"),
            ({"fractions": (np.nan, 0.5, 0.5)}, "three numbers"),
            ({"stratify": ("group",)}, "no column 'group'"),
            ({"seed": -1}, "seed -1 is negative"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, options, reason):
        with pytest.raises(InputError, match=reason):
            many().split(**options)

    def test_too_few_subjects_or_sites_are_refused(self):
        with pytest.raises(InputError, match="2 subjects cannot fill 3 parts"):
            many(2).split()
        with pytest.raises(InputError, match=r"2 separate sites .* cannot fill 3 parts"):
            many(60, sites=2).split(separate_sites=True)
        with pytest.raises(InputError, match="no site"):
            made(subject_id=list("abc"), md_path="x").split(separate_sites=True)

    def test_saved_and_loaded_it_is_the_same(self, tmp_path):
        split = many().split()
        split.save(tmp_path / "split")
        for before, after in zip(split, Split.load(tmp_path / "split"), strict=True):
            pd.testing.assert_frame_equal(before.table, after.table)

    def test_a_subject_in_two_saved_parts_is_refused(self, tmp_path):
        split = many().split()
        split.save(tmp_path)
        split.train.save(tmp_path / "val.tsv")
        with pytest.raises(InputError, match=r"42 subjects are in train.tsv and in val.tsv"):
            Split.load(tmp_path)

    def test_a_subject_in_two_parts_without_a_dataset_is_refused(self, tmp_path):
        for name, subject in {"train": "1", "val": "2", "test": "1"}.items():
            write(tmp_path, {f"{name}.tsv": ["subject_id md_path", f"{subject} a.nii"]})
        with pytest.raises(InputError, match=r"in train.tsv and in test.tsv, such as .* sub-1"):
            Split.load(tmp_path)


class TestMaps:
    def cohort(self, folder, volumes, code=2, name="sub-{}_fa.nii"):
        paths = []
        for k, volume in enumerate(volumes):
            image = nib.Nifti1Image(np.asarray(volume, np.float32), np.eye(4))
            image.set_sform(np.eye(4), code=code)
            image.to_filename(folder / name.format(k))
            paths.append(str(folder / name.format(k)))
        ids = [str(k) for k in range(len(paths))]
        return Cohort(pd.DataFrame({"subject_id": ids, "fa_path": paths}), "maps")

    def test_volumes_lie_on_one_grid(self, tmp_path):
        volumes = np.random.default_rng(0).random((2, 3, 4, 5), np.float32)
        cohort = self.cohort(tmp_path, volumes)
        assert cohort.grid("fa").shape == (3, 4, 5)
        assert np.array_equal(cohort.volumes("fa"), volumes)
        broken = volumes[1].copy()
        broken[0, 0, 0] = np.nan
        for values, reason in (
            ([volumes[0], volumes[1][:2]], "bring them to one grid"),
            ([volumes[0], broken], "sub-1_fa.nii holds NaN"),
            ([volumes[0], volumes[1] > 0.5], "sub-1_fa.nii is constant"),
            ([0 * volumes[0], volumes[1]], "sub-0_fa.nii is constant"),
        ):
            with pytest.raises(InputError, match=reason):
                self.cohort(tmp_path, values).volumes("fa")
        with pytest.raises(InputError, match="maps has no image 't1'; it has fa: name one"):
            cohort.grid("t1")
        with pytest.raises(InputError, match="some subjects have no fa"):
            Cohort(cohort.table.assign(fa_path=["", "x"])).grid("fa")

    @pytest.mark.parametrize(
        ("code", "name", "claims"),
        [
            (2, "sub-{}_fa.nii", False),
            (4, "sub-{}_fa.nii", True),
            (2, "sub-{}_space-MNI152Lin_fa.nii", True),
            (4, "sub-{}_space-mean_fa.nii", False),
        ],
    )
    def test_mni_space_is_claimed_by_names_or_else_by_headers(self, tmp_path, code, name, claims):
        cohort = self.cohort(tmp_path, np.ones((1, 2, 2, 2)), code=code, name=name)
        assert cohort.is_in_mni("fa") == claims
