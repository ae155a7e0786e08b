import numpy as np
import pytest

from neuromix.augment.errors import InputError
from neuromix.augment.phantom.population import person


def people(seed, site, count):
    return [person(seed, site, k)[0] for k in range(count)]


def test_a_subject_depends_on_seed_site_and_index_alone():
    assert people(0, "B", 30)[7] == person(0, "B", 7)[0]
    assert person(1, "B", 7)[0] != person(0, "B", 7)[0]


def test_the_two_sites_see_different_people():
    community, clinic = people(0, "A", 200), people(0, "B", 200)
    assert {p.diagnosis for p in community} == {None}
    assert {p.diagnosis for p in clinic} == {"NC", "MCI", "AD"}
    assert min(p.age for p in community) < 25
    assert min(p.age for p in clinic) >= 55
    ratio = abs(community[0].shape.sex_warp / clinic[0].shape.sex_warp)
    assert ratio > 1.1
    assert np.mean([p.gain for p in clinic]) > np.mean([p.gain for p in community]) + 0.02


def test_disease_moves_what_it_should():
    clinic = people(0, "B", 600)
    healthy = [p for p in clinic if p.diagnosis == "NC"]
    ill = [p for p in clinic if p.diagnosis == "AD"]

    def effect(of):
        a, b = np.array([of(p) for p in ill]), np.array([of(p) for p in healthy])
        return (a.mean() - b.mean()) / np.sqrt((a.var() + b.var()) / 2)

    assert effect(lambda p: p.shape.ventricles) > 0.7
    assert effect(lambda p: p.shape.hippocampi) > 1.0
    assert effect(lambda p: p.white_matter) > 0.7
    assert abs(effect(lambda p: p.age)) < 0.3


def test_an_unknown_site_is_refused():
    with pytest.raises(InputError, match="allowed are A, B"):
        person(0, "C", 0)
