import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
import torchio as tio
from banking import FakeSampler

from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.bank.filters import Faithful, IntensityRange, NearCopy
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.leakage import check_disjoint, provenance, voxel_hashes
from neuromix.augment.errors import InputError, LeakageError


def subject(volume, **labels):
    data = torch.as_tensor(np.asarray(volume, dtype=np.float32))
    return tio.Subject(md=tio.ScalarImage(tensor=data if data.ndim == 4 else data[None]), **labels)


def brightness(volumes):
    """A classifier: the mean is the probability of M."""
    bright = volumes.mean(axis=(1, 2, 3))
    return np.stack([1 - bright, bright], axis=1)


def half(value, rest):
    volume = np.full((4, 4, 4), float(rest))
    volume[:2] = value
    return volume


class TestIntensityRange:
    keep = IntensityRange(0.2, 3.0, share=0.1)

    def test_what_is_plausible_passes(self):
        assert self.keep(subject(half(0.2, 3.0))) is None
        assert self.keep(subject(half(1.0, 0.0))) is None, "zeros are background"

    @pytest.mark.parametrize("value", [3.5, 0.1, -1, np.nan, np.inf])
    def test_too_many_other_values_are_told_with_figures(self, value):
        reason = self.keep(subject(half(value, 1.0)))
        assert reason == "50.0 % of md lies outside 0.2 to 3, allowed is 10 %"

    def test_a_few_other_values_pass(self):
        volume = np.ones((4, 4, 4))
        volume.flat[:6] = 9  # 6 of 64 are 9.4 %, 7 are 10.9 %
        assert self.keep(subject(volume)) is None
        volume.flat[:7] = 9
        assert self.keep(subject(volume)) is not None

    def test_an_empty_image(self):
        assert self.keep(subject(np.zeros((4, 4, 4)))) == "md is empty"

    def test_bad_input(self):
        with pytest.raises(InputError, match="low must be below high"):
            IntensityRange(3, 1)
        with pytest.raises(InputError, match="share from 0 to below 1"):
            IntensityRange(0, 1, share=1)
        with pytest.raises(InputError, match=r"no image 't1w'; it has \['md'\]"):
            IntensityRange(0, 1, image="t1w")(subject(np.ones((4, 4, 4))))


class TestFaithful:
    keep = Faithful(brightness, ("F", "M"), "sex", 0.7, record=None)

    def test_the_wanted_label_must_be_seen(self):
        assert self.keep(subject(np.full((4, 4, 4), 0.8), sex="M")) is None
        assert self.keep(subject(np.full((4, 4, 4), 0.1), sex="F")) is None
        reason = self.keep(subject(np.full((4, 4, 4), 0.6), sex="M"))
        assert reason == "sex M is seen with probability 0.60, wanted is 0.70"
        assert self.keep(subject(np.full((4, 4, 4), 0.6), sex="F")) is not None

    @pytest.mark.parametrize("labels", [{}, {"sex": ""}, {"sex": None}])
    def test_what_was_not_asked_for_passes(self, labels):
        assert self.keep(subject(np.ones((4, 4, 4)), **labels)) is None

    def test_bad_input(self):
        with pytest.raises(InputError, match=r"sex 'X' .* tells \['F', 'M'\] apart"):
            self.keep(subject(np.ones((4, 4, 4)), sex="X"))
        with pytest.raises(InputError, match="at_least 0 came"):
            Faithful(brightness, ("F", "M"), "sex", 0, record=None)
        with pytest.raises(InputError, match=r"shape \(1, 2\) .* must return \(1, 3\)"):
            Faithful(brightness, ("F", "M", "X"), "sex", record=None)(
                subject(np.ones((4, 4, 4)), sex="F")
            )
        with pytest.raises(InputError, match="md has 5 channels"):
            self.keep(subject(np.ones((5, 4, 4, 4)), sex="F"))

    def test_it_shows_its_settings_and_makers(self):
        others = Faithful(brightness, ("F", "M"), "sex", 0.7, record={"subjects": ["a"]})
        stricter = Faithful(brightness, ("F", "M"), "sex", 0.8, record=None)
        again = Faithful(lambda v: brightness(v), ("F", "M"), "sex", 0.7, record=None)
        assert len({repr(self.keep), repr(others), repr(stricter)}) == 3
        assert repr(again) == repr(self.keep)

    def test_a_bank_turns_samples_away_and_knows_who_trained_the_filter(self, tmp_path, md_phantom):
        cohort = Cohort.from_bids(md_phantom)
        record = provenance([cohort], voxel_hashes(cohort))
        # The fake sampler's mean is 5 for M, and its noise moves it by 0.05.
        share = lambda v: np.repeat((v.mean(axis=(1, 2, 3)) > 5.0)[:, None], 2, 1)  # noqa: E731
        keep = Faithful(share, ("F", "M"), "sex", record=record)
        bank = SampleBank.fill(tmp_path / "bank", FakeSampler(), [{"sex": "M"}] * 8, 0,
                               filters=[keep])  # fmt: skip
        assert all(float(s["md"].data.mean()) > 5 for s in bank.subjects())
        rejected = pd.read_csv(tmp_path / "bank" / "rejected.tsv", sep="\t")
        assert "sex M is seen with probability 0.00, wanted is 0.50" in rejected.to_string()
        with pytest.raises(LeakageError, match="12 of 12"):
            bank.check_disjoint(cohort)


class TestNearCopy:
    @pytest.fixture(scope="class")
    def cohort(self, md_phantom):
        return Cohort.from_bids(md_phantom)

    @pytest.fixture(scope="class")
    def keep(self, cohort):
        return NearCopy(cohort.where(cohort.table.index < 8))

    def test_copies_are_found_under_noise_and_others_pass(self, keep, cohort):
        volumes = [s["md"].data[0].numpy() for s in cohort.subjects()]
        noise = 0.05 * np.random.default_rng(0).standard_normal(volumes[0].shape)
        for volume in volumes[:8]:
            reason = keep(subject(volume + noise))
            assert reason is not None
            assert reason.endswith(f"in real subjects it is {keep.limit:.2f} times at least")
        # By the limit's making, a new subject is rejected once in nine times; of these, one is.
        assert sum(keep(subject(volume)) is None for volume in volumes[8:]) >= 3
        assert keep(subject(np.mean(volumes[:8], axis=0))) is None, "an average copies nobody"

    def test_its_record_names_the_training_subjects(self, keep, cohort):
        with pytest.raises(LeakageError, match="8 of 12"):
            check_disjoint(keep.record, cohort)

    def test_sessions_of_one_subject_do_not_set_the_limit(self, tmp_path, cohort, keep):
        table = cohort.table[cohort.table.index < 8]
        image = nib.load(table["md_path"][0])
        near = tmp_path / "second.nii"
        nib.save(nib.Nifti1Image(image.get_fdata() * 1.001, image.affine), near)
        again = table.iloc[:1].assign(session_id="2", md_path=str(near))
        both = NearCopy(Cohort(pd.concat([table, again])))
        assert both.limit == pytest.approx(keep.limit, rel=0.01)

    def test_bad_input(self, tmp_path, cohort, keep):
        with pytest.raises(InputError, match="with an image 'md': 2; three are needed"):
            NearCopy(cohort.where(cohort.table.index < 2))
        with pytest.raises(InputError, match="another shape"):
            keep(subject(np.ones((8, 8, 8))))
        table = cohort.table[cohort.table.index < 3]
        twins = table.assign(md_path=table["md_path"].iloc[0])
        with pytest.raises(InputError, match=r"sub-\S+ has the same md as another"):
            NearCopy(Cohort(twins))
