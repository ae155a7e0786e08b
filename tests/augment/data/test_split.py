import numpy as np
import pytest

from neuromix.augment.data import split
from neuromix.augment.errors import InputError

SHARES = np.array([0.7, 0.15, 0.15])


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("count", [3, 4, 10, 17, 101])
def test_sizes_follow_the_largest_remainder(count):
    parts = split.by_subject(np.zeros(count, int), SHARES, rng())
    sizes = np.bincount(parts, minlength=3)
    assert sizes.sum() == count
    assert sizes.min() >= 1
    assert np.abs(sizes - count * SHARES).max() < (1 if count > 6 else 2)


def test_every_stratum_is_spread_to_within_one_subject():
    for seed in range(20):
        strata = np.sort(rng(seed).integers(0, 6, 103))
        parts = split.by_subject(strata, SHARES, rng(seed))
        sizes = np.bincount(parts)
        for stratum in range(6):
            counts = np.bincount(parts[strata == stratum], minlength=3)
            ideal = (strata == stratum).sum() * sizes / 103
            assert np.abs(counts - ideal).max() < 1


def test_strata_of_one_subject_do_not_all_land_in_one_part():
    parts = split.by_subject(np.arange(20), SHARES, rng())
    assert list(np.bincount(parts)) == [14, 3, 3]


def test_a_part_of_fraction_zero_stays_empty():
    parts = split.by_subject(np.zeros(10, int), np.array([0.8, 0.0, 0.2]), rng())
    assert list(np.bincount(parts, minlength=3)) == [8, 0, 2]


def test_too_few_subjects_are_refused():
    with pytest.raises(InputError, match="2 subjects cannot fill 3 parts"):
        split.by_subject(np.zeros(2, int), SHARES, rng())


def test_whole_sites_come_near_the_fractions():
    sites = np.repeat(np.arange(20), 5)
    strata = np.tile([0, 1], 50)
    parts = split.by_site(sites, strata, SHARES, rng())
    assert all(len(set(parts[sites == site])) == 1 for site in range(20))
    assert list(np.bincount(parts)) == [70, 15, 15]


def test_one_large_site_leaves_something_for_every_part():
    sites = np.array([0] * 98 + [1, 2])
    parts = split.by_site(sites, np.zeros(100, int), SHARES, rng())
    assert sorted(np.bincount(parts)) == [1, 1, 98]
    assert parts[0] == 0


def test_sites_that_share_a_subject_are_one_group():
    subjects = np.array([0, 1, 1, 2, 3])
    sites = np.array([0, 0, 1, 1, 2])
    assert list(split.site_groups(subjects, sites)) == [0, 0, 0, 1]


def test_numbers_in_names_count_as_numbers():
    assert sorted(["M10", "m2", "bl", "M06"], key=split.natural) == ["bl", "m2", "M06", "M10"]
