from collections import Counter

import numpy as np
import pandas as pd
import pytest
from banking import FakeSampler

from neuromix.augment.bank import quotas
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.errors import InputError
from neuromix.experiments.cli import main

NAMES = ("sex", "diagnosis", "site", "age")
STAGES = {"NC": 0, "MCI": 1, "AD": 2}


def made(**columns):
    count = len(next(iter(columns.values())))
    ids = [f"{i:04d}" for i in range(count)]
    return Cohort(pd.DataFrame({"subject_id": ids, "md_path": "/x.nii", **columns}), "made")


def confounded(count=240, seed=0):
    """Patients are older, more often women, and scanned at another site."""
    rng = np.random.default_rng(seed)
    diagnosis = rng.choice(list(STAGES), count, p=[0.5, 0.3, 0.2])
    stage = np.array([STAGES[d] for d in diagnosis])
    return made(
        diagnosis=diagnosis,
        age=np.clip(66 + 5 * stage + 6 * rng.standard_normal(count), 50, 92).round(1),
        sex=np.where(rng.random(count) < 0.35 + 0.15 * stage, "F", "M"),
        site=[f"S{k}" for k in np.minimum(2, rng.random(count) * 1.8 + 0.6 * stage).astype(int)],
    )


def space_of(cohort, names=NAMES):
    return LabelSpace.from_labels(cohort.table.to_dict("records"), names)


def make_each(cohort, space, count, seed=0):
    return {
        "grid": quotas.grid(space, {"sex": "F"}, count, seed),
        "like": quotas.like(cohort, space, count, seed),
        "balance": quotas.balance(cohort, space, ("diagnosis",), count, seed),
        "deconfound": quotas.deconfound(cohort, space, count=count, seed=seed),
    }


@pytest.mark.filterwarnings("ignore:.*must extrapolate")
class TestAll:
    def test_a_longer_request_extends_a_shorter_one(self):
        cohort = confounded()
        short = make_each(cohort, space_of(cohort), 20)
        long = make_each(cohort, space_of(cohort), 50)
        for name in short:
            assert len(long[name]) == 50
            assert long[name][:20] == short[name], name

    def test_the_seed_decides(self):
        cohort = confounded()
        first, second = (make_each(cohort, space_of(cohort), 20, seed) for seed in (0, 1))
        for name in first:
            assert first[name] != second[name], name

    def test_the_order_of_rows_does_not_matter(self):
        cohort = confounded()
        shuffled = Cohort(cohort.table.sample(frac=1, random_state=1), "made")
        assert make_each(cohort, space_of(cohort), 20) == make_each(shuffled, space_of(cohort), 20)

    def test_all_labels_can_be_asked_for(self):
        cohort = confounded()
        space = space_of(cohort)
        for labels in make_each(cohort, space, 200).values():
            for row in labels:
                assert set(row) == set(NAMES)
                space.encode(row)

    def test_a_label_that_the_sampler_does_not_know_is_refused(self):
        cohort = confounded()
        space = LabelSpace({"diagnosis": ("NC", "AD")}, {"age": (50, 92)})
        for quota in (quotas.like, quotas.balance, quotas.deconfound):
            options = {"by": ("age",)} if quota is quotas.deconfound else {}
            with pytest.raises(InputError, match=r"sub-\d+: diagnosis 'MCI' .*NC.*AD"):
                quota(cohort, space, count=3, seed=0, **options)

    def test_a_cohort_without_any_of_the_labels_is_refused(self):
        space = LabelSpace({"sex": ("F", "M")})
        with pytest.raises(InputError, match="no subject of 'made' has a label"):
            quotas.like(made(age=[20.0, 30.0]), space, 3, 0)
        with pytest.raises(InputError, match="none of 2 rows has all of the labels sex"):
            quotas.balance(
                made(age=[20.0, 30.0]), LabelSpace({"sex": ("F", "M")}, {"age": (20, 30)}), ["sex"]
            )


class TestGrid:
    space = LabelSpace({"sex": ("F", "M"), "diagnosis": ("NC", "AD")}, {"age": (50.0, 90.0)})

    def test_categories_come_in_turn_and_ages_fill_the_range(self):
        labels = quotas.grid(self.space, {}, 400, 0)
        pairs = Counter((row["sex"], row["diagnosis"]) for row in labels)
        assert set(pairs.values()) == {100}
        ages = np.histogram([row["age"] for row in labels], bins=4, range=(50, 90))[0]
        assert ages.min() > 70

    def test_given_labels_stay_and_the_others_still_come_in_turn(self):
        labels = quotas.grid(self.space, {"sex": "F", "age": "70"}, 10, 0)
        assert {row["sex"] for row in labels} == {"F"}
        assert {row["age"] for row in labels} == {70.0}
        assert Counter(row["diagnosis"] for row in labels) == {"NC": 5, "AD": 5}

    def test_the_order_of_labels_in_the_space_does_not_matter(self):
        turned = LabelSpace({"diagnosis": ("NC", "AD"), "sex": ("F", "M")}, self.space.ranges)
        assert quotas.grid(turned, {}, 10, 0) == quotas.grid(self.space, {}, 10, 0)

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"smoker": "yes"}, "smoker.*it has.*sex"),
            ({"age": "old"}, "'old' is no number"),
            ({"age": "100"}, "50 to 90"),
            ({"sex": "X"}, "allowed are"),
        ],
    )
    def test_what_the_sampler_lacks_is_refused(self, given, words):
        with pytest.raises(InputError, match=words):
            quotas.grid(self.space, given, 1, 0)


class TestLike:
    def test_the_joint_distribution_is_that_of_the_cohort(self):
        cohort = confounded()
        labels = pd.DataFrame(quotas.like(cohort, space_of(cohort), 3000, 0))
        for name in ("sex", "site"):
            real = pd.crosstab(cohort.table["diagnosis"], cohort.table[name], normalize=True)
            synthetic = pd.crosstab(labels["diagnosis"], labels[name], normalize=True)
            # Six standard errors of a share of 0.5.
            assert (real - synthetic).abs().to_numpy().max() < 0.055
        means = labels.groupby("diagnosis")["age"].mean()
        real_means = cohort.table.groupby("diagnosis")["age"].mean()
        assert (means - real_means).abs().max() < 1

    def test_ages_are_moved_a_little_and_stay_in_the_range(self):
        space = LabelSpace({}, {"age": (50.0, 90.0)})
        ages = [row["age"] for row in quotas.like(made(age=[50.0, 90.0]), space, 200, 0)]
        assert len(set(ages)) > 10
        assert all(50 <= age <= 50.8 or 89.2 <= age <= 90 for age in ages)

    def test_a_missing_label_is_not_asked_for(self):
        cohort = made(sex=["F", "F"], age=[60.0, np.nan])
        labels = quotas.like(cohort, space_of(cohort, ("sex", "age")), 50, 0)
        assert {frozenset(row) for row in labels} == {frozenset({"sex"}), frozenset({"sex", "age"})}

    def test_an_age_outside_the_range_is_refused(self):
        with pytest.raises(InputError, match=r"sub-0001: age 95.* 50 to 90"):
            quotas.like(made(age=[60.0, 95.0]), LabelSpace({}, {"age": (50, 90)}), 3, 0)


class TestBalance:
    cohort = made(
        diagnosis=["NC"] * 9 + ["MCI"] * 5 + ["AD"] * 2,
        sex=["F"] * 9 + ["M"] * 7,
        age=[60.0] * 9 + [80.0] * 7,
    )
    space = space_of(cohort, ("sex", "diagnosis", "age"))

    def test_just_enough_makes_the_classes_equal(self):
        labels = quotas.balance(self.cohort, self.space)
        assert Counter(row["diagnosis"] for row in labels) == {"MCI": 4, "AD": 7}

    def test_the_smallest_class_comes_first_and_more_keeps_the_balance(self):
        few = quotas.balance(self.cohort, self.space, count=3)
        assert [row["diagnosis"] for row in few] == ["AD"] * 3
        many = quotas.balance(self.cohort, self.space, count=14)
        assert Counter(row["diagnosis"] for row in many) == {"MCI": 5, "AD": 8, "NC": 1}

    def test_the_other_labels_come_from_the_same_class(self):
        for row in quotas.balance(self.cohort, self.space, count=60):
            assert (row["sex"] == "F") == (row["diagnosis"] == "NC")
            assert (row["age"] < 70) == (row["diagnosis"] == "NC")

    def test_classes_of_two_labels(self):
        labels = quotas.balance(self.cohort, self.space, ("sex", "diagnosis"))
        assert Counter((row["sex"], row["diagnosis"]) for row in labels) == {
            ("M", "MCI"): 4,
            ("M", "AD"): 7,
        }

    def test_equal_classes_need_nothing(self):
        cohort = made(diagnosis=["NC", "AD"])
        assert quotas.balance(cohort, space_of(cohort, ["diagnosis"])) == []

    def test_rows_without_the_class_do_not_count(self):
        cohort = made(diagnosis=["NC", "NC", "AD", "", ""])
        labels = quotas.balance(cohort, space_of(cohort, ["diagnosis"]))
        assert labels == [{"diagnosis": "AD"}]

    def test_a_number_has_no_classes(self):
        with pytest.raises(InputError, match="no classes of 'age'; it has those of sex, diagnosis"):
            quotas.balance(self.cohort, self.space, ("age",))


@pytest.mark.filterwarnings("ignore:.*must extrapolate")
class TestDeconfound:
    def test_the_target_becomes_independent_of_all_confounders(self):
        cohort = confounded()
        labels = quotas.deconfound(cohort, space_of(cohort))
        by = ["age", "sex", "site"]
        table = quotas.associations(cohort, labels, "diagnosis", by).set_index("label")
        assert list(table["measure"]) == ["correlation ratio", "Cramér's V", "Cramér's V"]
        assert (table["before"] > 0.15).all()
        # Over sixteen cohorts of 120 and 240 subjects the largest was 0.043.
        assert (table["after"] < 0.06).all()

    @pytest.mark.parametrize("seed", range(1, 5))
    def test_other_cohorts(self, seed):
        cohort = confounded(120, seed)
        labels = quotas.deconfound(cohort, space_of(cohort), seed=seed)
        table = quotas.associations(cohort, labels, "diagnosis", ["age", "sex", "site"])
        assert (table["after"] < 0.06).all()

    def test_independent_within_cells_too_not_only_on_average(self):
        cohort = confounded()
        labels = quotas.deconfound(cohort, space_of(cohort), by=("sex", "site"))
        both = pd.concat([cohort.table, pd.DataFrame(labels)])
        for _, cell in both.groupby(["sex", "site"]):
            share = (cell["diagnosis"] == "AD").mean()
            # The whole numbers nearest to a product are less than one away from it.
            assert abs(share - (both["diagnosis"] == "AD").mean()) < 1 / len(cell)

    def test_no_more_samples_than_the_smallest_product_needs(self):
        # With two rows, a search over the share of the second finds the best product.
        counts = np.array([[8, 4], [2, 4]])
        best = min(
            (1 + share) * np.maximum(counts[0], counts[1] / share).sum()
            for share in np.geomspace(0.05, 20, 20_001)
        )
        product = quotas._smallest_product(counts)
        assert np.linalg.matrix_rank(product, tol=1e-9) == 1
        assert (product >= counts - 1e-9).all()
        assert product.sum() == pytest.approx(best, rel=1e-4)

    def test_an_independent_cohort_needs_nothing(self):
        cohort = made(diagnosis=["NC", "NC", "AD"] * 4, sex=["F"] * 6 + ["M"] * 6)
        assert quotas.deconfound(cohort, space_of(cohort, ["sex", "diagnosis"]), by=["sex"]) == []

    def test_fewer_samples_fill_the_worst_gaps_and_more_keep_the_product(self):
        cohort = confounded()
        space = space_of(cohort)

        def left(count):
            labels = quotas.deconfound(cohort, space, count=count)
            return quotas.associations(cohort, labels, "diagnosis", ["age"])["after"].item()

        assert left(0) > left(60) > left(120) > left(220)
        assert left(1000) < 0.05

    def test_a_confounder_that_the_sampler_cannot_make_is_refused(self):
        cohort = confounded()
        space = space_of(cohort, ("sex", "diagnosis", "age"))
        with pytest.raises(InputError, match="cannot be asked for site, only for sex"):
            quotas.deconfound(cohort, space)
        quotas.deconfound(cohort, space, by=("age", "sex"))

    def test_one_site_is_no_confounder(self):
        cohort = confounded()
        alone = Cohort(cohort.table.assign(site="S0"), "made")
        space = space_of(alone, ("sex", "diagnosis", "age"))
        assert quotas.deconfound(alone, space) == quotas.deconfound(alone, space, by=("age", "sex"))
        with pytest.raises(InputError, match="site came as confounders and none varies"):
            quotas.deconfound(alone, space, by=("site",))

    def test_one_class_is_no_target(self):
        cohort = made(diagnosis=["NC"] * 4, sex=["F", "M"] * 2)
        space = LabelSpace({"diagnosis": ("NC", "AD"), "sex": ("F", "M")})
        with pytest.raises(InputError, match="two classes"):
            quotas.deconfound(cohort, space, by=("sex",))


def test_combinations_that_no_subject_has_are_warned_about():
    cohort = made(diagnosis=["NC"] * 5 + ["AD"] * 5, sex=["F"] * 5 + ["M"] * 5)
    with pytest.warns(UserWarning, match="10 of 10 samples have a diagnosis that no real subject"):
        labels = quotas.deconfound(cohort, space_of(cohort, ["sex", "diagnosis"]), by=["sex"])
    assert Counter((row["diagnosis"], row["sex"]) for row in labels) == {
        ("AD", "F"): 5,
        ("NC", "M"): 5,
    }


class TestCommand:
    """``neuromix generate --quota``, with a sampler that costs nothing."""

    @pytest.fixture
    def generate(self, tmp_path, monkeypatch, capfd):
        cohort = confounded()
        cohort.save(tmp_path / "train.tsv")
        sampler = FakeSampler()
        sampler.label_space = space_of(cohort, ("sex", "diagnosis", "age"))
        sampler.image = "md"
        monkeypatch.setattr("neuromix.augment.diffusion.pipeline.is_sampler", lambda folder: True)
        monkeypatch.setattr("neuromix.augment.opening.open_source", lambda folder: sampler)

        def run(*args):
            code = main.main(["generate", "sampler", str(tmp_path / "bank"), *map(str, args)])
            said = capfd.readouterr()
            if code:
                assert not (tmp_path / "bank").exists()
                return said.err.strip()
            table = pd.read_csv(tmp_path / "bank" / "participants.tsv", sep="\t")
            return table, said.out

        run.train = tmp_path / "train.tsv"
        return run

    def test_like(self, generate):
        table, _ = generate("--quota", "like", "--like", generate.train, "--count", 20)
        wanted = quotas.like(
            confounded(), space_of(confounded(), ("sex", "diagnosis", "age")), 20, 0
        )
        assert list(table["age"]) == [row["age"] for row in wanted]

    def test_balance(self, generate):
        table, _ = generate("--quota", "balance", "--like", generate.train, "--target", "sex")
        both = Counter(table["sex"]) + Counter(confounded().table["sex"])
        assert both["F"] == both["M"]

    @pytest.mark.filterwarnings("ignore:.*must extrapolate")
    def test_deconfound_shows_the_association_before_and_after(self, generate):
        table, said = generate(
            "--quota", "deconfound", "--like", generate.train, "--by", "age", "sex", "--count", 20
        )
        assert len(table) == 20
        assert all(word in said for word in ("before", "after", "correlation ratio", "Cramér's V"))

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--quota", "grid"], "no --count came"),
            (["--quota", "like", "--like", "TRAIN"], "no --count came"),
            (["--quota", "balance"], "no --like came"),
            (["--quota", "balance", "--like", "TRAIN", "--labels", "sex", "F"], "--labels came"),
            (["--count", "3", "--like", "TRAIN"], "--like came with --quota grid"),
            (["--quota", "deconfound", "--like", "TRAIN"], "cannot be asked for site"),
        ],
    )
    def test_bad_input_is_one_line(self, generate, options, words):
        said = generate(*(generate.train if word == "TRAIN" else word for word in options))
        assert words in said
        assert said.startswith("neuromix: ")
        assert len(said.splitlines()) == 1
