import json

import numpy as np
import pytest

from neuromix.augment import InputError
from neuromix.augment.prepare.segments import (
    expand,
    segment,
    segment_bold,
    segment_dwi,
    to_world,
)

SHAPE = (3, 4, 2)
RAS = np.diag([2.0, 2.0, 2.0, 1.0])
LAS = np.diag([-2.0, 2.0, 2.0, 1.0])


def as_json(record):
    return json.loads(json.dumps(record))


def make_frames(count, seed=0):
    return np.random.default_rng(seed).uniform(500, 1500, (*SHAPE, count))


def make_directions(count, seed=0):
    spread = np.random.default_rng(seed).normal(size=(count, 3))
    return spread / np.linalg.norm(spread, axis=1, keepdims=True)


def test_segments_are_means_of_contiguous_near_equal_groups():
    data = make_frames(11)
    segments, record = segment(data, 4)
    assert record["groups"] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10]]
    np.testing.assert_allclose(segments[..., 3], data[..., 9:].mean(axis=-1), rtol=1e-6)


def test_expand_goes_back_and_is_idempotent():
    data, order = make_frames(9), [8, 3, 1, 0, 2, 5, 7, 6, 4]
    segments, record = segment(data, 4, order)
    frames = expand(segments, as_json(record))
    assert frames.shape == data.shape
    np.testing.assert_array_equal(frames[..., 8], segments[..., 0])
    again, _ = segment(frames, 4, order)
    np.testing.assert_array_equal(again, segments)
    np.testing.assert_array_equal(expand(again, record), frames)


def test_as_many_segments_as_frames_lose_nothing():
    data = make_frames(5).astype(np.float32)
    np.testing.assert_array_equal(expand(*segment(data, 5)), data)


@pytest.mark.parametrize("n", [0, 12])
def test_impossible_numbers_of_segments(n):
    with pytest.raises(InputError, match="allowed are 1 to 11"):
        segment(make_frames(11), n)


def test_a_record_of_another_image_is_refused():
    _, record = segment(make_frames(11), 4)
    with pytest.raises(InputError, match="3 segments, its record 4"):
        expand(np.zeros((*SHAPE, 3)), record)


def test_bold_is_relative_to_the_mean_brain_signal_and_returns_in_its_own_units():
    data = make_frames(10)
    mask = np.zeros(SHAPE, bool)
    mask[1:] = True
    segments, record = segment_bold(data, 5, mask)
    assert segments[mask].mean() == pytest.approx(1, abs=1e-6)
    back = expand(segments, as_json(record))
    np.testing.assert_allclose(back[..., :2].mean(-1), data[..., :2].mean(-1), rtol=1e-5)
    twice, _ = segment_bold(3 * data, 5, mask)  # another receiver gain
    np.testing.assert_allclose(twice, segments, rtol=1e-5)


def test_bold_without_signal_is_refused():
    with pytest.raises(InputError, match="BOLD in raw units"):
        segment_bold(make_frames(10) - 1000, 5, np.ones(SHAPE, bool) & False)


def test_dwi_segments_mean_the_same_directions_for_every_table():
    means = []
    for seed, count in ((1, 400), (2, 700)):
        directions = make_directions(count, seed)
        bvals = np.r_[0.0, np.full(count, 1000.0)]
        bvecs = np.concatenate([np.zeros((1, 3)), directions])
        # The signal is the cosine to the superior axis itself, so a segment shows its own mean.
        signal = np.r_[1.0, np.abs(directions[:, 2])] * 700
        data = np.broadcast_to(signal, (*SHAPE, count + 1))
        means.append(segment_dwi(data, bvals, bvecs, LAS, 4)[0][0, 0, 0])
    np.testing.assert_allclose(means[0], means[1], atol=0.03)
    np.testing.assert_allclose(means[0], [0.875, 0.625, 0.375, 0.125], atol=0.05)


def test_dwi_takes_the_shell_nearest_to_1000_and_divides_by_b0():
    directions = make_directions(6)
    bvals = np.r_[0, np.full(6, 2000.0), 5, np.full(6, 995.0), np.full(6, 300.0)]
    bvecs = np.concatenate([[[0, 0, 0]], directions, [[0, 0, 0]], directions, directions])
    data = np.broadcast_to(800 * np.exp(-bvals * 0.7e-3), (*SHAPE, len(bvals))).copy()
    data[0, 0, 0] = 0
    segments, record = segment_dwi(data, bvals, bvecs, RAS, 3)
    assert record["b0"] == [0, 7]
    assert record["shell"] == pytest.approx(995)
    assert sorted(np.ravel(record["groups"])) == list(range(8, 14))
    np.testing.assert_allclose(segments[1, 1, 1], np.exp(-0.995 * 0.7), rtol=2e-3)
    assert not segments[0, 0, 0].any()
    frames = expand(segments, as_json(record))
    assert (frames[..., [0, 7]] == 1).all()
    assert np.isnan(frames[..., 1:7]).all()
    again, _ = segment_dwi(frames, bvals, bvecs, RAS, 3)
    np.testing.assert_allclose(again, segments, rtol=1e-6)


def test_dwi_without_b0_or_with_too_few_directions():
    bvals, bvecs = np.full(6, 1000.0), make_directions(6)
    with pytest.raises(InputError, match="no volume has b <= 50"):
        segment_dwi(make_frames(6), bvals, bvecs, RAS, 3)
    bvals[0] = 0
    with pytest.raises(InputError, match=r"no shell has 8 directions \(there are 5 at b = 1000\)"):
        segment_dwi(make_frames(6), bvals, bvecs, RAS, 8)


def test_directions_turn_with_the_head():
    tilt = np.radians(30)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    along_slice_axis = np.array([[0.0, 0.0, 1.0]])
    np.testing.assert_allclose(to_world(along_slice_axis, turn @ LAS), [turn[:3, 2]])
    # FSL mirrors the first axis of right-handed grids: one direction of the head, two tables.
    oblique = np.array([[0.6, 0.0, 0.8]])
    np.testing.assert_allclose(to_world(oblique, LAS), to_world(oblique, RAS))
    np.testing.assert_allclose(to_world(oblique, LAS), [[-0.6, 0.0, 0.8]])
