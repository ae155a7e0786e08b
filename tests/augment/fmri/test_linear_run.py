import numpy as np
import pytest
import torch

from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.fmri.linear_run import Courses, Estimated, Evidence, LinearRun, regress

SPACE = LabelSpace({"task": ("t", "u"), "dir": ("LR", "RL"), "sex": ("F", "M")})
TR, FRAMES, PEOPLE, VOXELS = 2.0, 120, 40, 60
BIG = (30, 60)  # voxels of the response


class World:
    """People whose runs are made as the model says, so that every part of it is known."""

    def __init__(self, noise=0.01, voxels=VOXELS):
        self.voxels = voxels
        rng = np.random.default_rng(0)
        self.anatomy = 1 + 0.2 * rng.standard_normal(voxels)
        self.apart = 0.1 * rng.standard_normal(voxels)  # between phase encodings
        self.sex = np.where(np.arange(voxels) < 10, 0.1, 0.0)
        self.map = np.where(np.arange(voxels) >= BIG[0], 0.03, 0.0)
        self.pattern = np.zeros(voxels)
        self.pattern[10:20] = 1 / 10**0.5
        self.noise = noise
        self.runs, self.data, self.sexes = [], [], []
        for person in range(PEOPLE):
            size, sex = rng.standard_normal(), person % 2
            amplitude = 1 + 0.4 * rng.standard_normal()
            for direction in (0, 1):
                for task in ("t", "u"):
                    design = np.zeros((FRAMES, 2), np.float32)
                    column = "tu".index(task)
                    blocks = rng.permutation(FRAMES // 10) < FRAMES // 20
                    design[:, column] = np.repeat(blocks, 10)
                    sign = 1 if task == "t" else -1
                    answer = design[:, [column]] * (sign * amplitude * self.map)
                    base = self.anatomy + direction * self.apart + 0.05 * size + sex * self.sex
                    course = ar(rng, FRAMES, 0.8, 1)
                    rest = 0.05 * course * self.pattern
                    rest = rest + noise * ar(rng, FRAMES, 0.3, voxels)
                    run = base * (1 + answer + rest)
                    self.runs.append(Estimated(design, task, direction, person, [column]))
                    self.data.append(run.astype(np.float32))
                    self.sexes.append(sex)

    def fit(self, folder):
        model = LinearRun(
            label_space=SPACE.to_dict(), courses=2, shape=(self.voxels, 1, 1), voxels=self.voxels,
            people=PEOPLE, patterns=3,
        )  # fmt: skip
        codes = {"sex": torch.tensor(self.sexes)}
        model.fit(self.runs, lambda k: self.data[k], codes, TR, folder)
        return model


def ar(rng, frames, rho, count):
    made, last = np.empty((frames, count)), rng.standard_normal(count)
    for t in range(frames):
        last = rho * last + np.sqrt(1 - rho**2) * rng.standard_normal(count)
        made[t] = last
    return made


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def model(world, tmp_path_factory):
    return world.fit(tmp_path_factory.mktemp("fit"))


def person(model, seed, sex=0, direction=0):
    codes = {"sex": torch.tensor([sex])}
    return model.draw(direction, codes, torch.Generator().manual_seed(seed))


def test_means_and_label_effects_are_found(model, world):
    np.testing.assert_allclose(model.maps[0, 0], world.map, atol=0.006)
    np.testing.assert_allclose(model.maps[1, 1], -world.map, atol=0.006)
    between = (model.anatomy[1] - model.anatomy[0]).numpy()
    np.testing.assert_allclose(between, world.apart, atol=0.01)
    women, men = (np.mean([person(model, k, sex)[0].numpy() for k in range(40)], 0)
                  for sex in (0, 1))  # fmt: skip
    # Equal seeds are equal people but for their sex; people of both differ in size by chance.
    assert (men - women)[:10].mean() - (men - women)[10:].mean() == pytest.approx(0.1, abs=0.02)


def test_people_differ_as_the_training_people_do(model):
    drawn = [person(model, k) for k in range(200)]
    sizes = torch.stack([base.mean() for base, _ in drawn])
    assert sizes.std().item() == pytest.approx(0.05, rel=0.25)
    amplitudes = torch.stack([maps[0, BIG[0] :].mean() for _, maps in drawn]) / 0.03
    assert amplitudes.mean().item() == pytest.approx(1, abs=0.15)
    assert amplitudes.std().item() == pytest.approx(0.4, rel=0.3)


def test_a_person_is_alike_in_every_task_and_phase_encoding(model):
    drawn = [(person(model, k), person(model, k, direction=1)) for k in range(60)]
    sizes = np.array([[one[0].mean(), other[0].mean()] for one, other in drawn])
    assert np.corrcoef(sizes.T)[0, 1] > 0.9
    maps = np.array([[one[1].numpy(), other[1].numpy()] for one, other in drawn])
    amplitudes = maps[..., BIG[0] :].mean(-1)  # (person, phase encoding, task)
    assert np.corrcoef(amplitudes[:, 0, 0], amplitudes[:, 1, 0])[0, 1] > 0.9
    # The response of task u has the other sign.
    assert np.corrcoef(amplitudes[:, 0, 0], amplitudes[:, 0, 1])[0, 1] < -0.9


def test_noise_of_the_estimate_is_no_difference_between_people(tmp_path):
    """With much noise, the spread of the drawn maps stays that of people."""
    loud = World(noise=0.06, voxels=600)
    model = loud.fit(tmp_path)
    maps = torch.stack([person(model, k)[1][0] for k in range(200)])
    spread = maps[:, : BIG[0]].std(0).mean().item()  # where nobody has a response
    raw = [
        regress(data, run, TR)[1][0]
        for run, data in zip(loud.runs, loud.data, strict=True)
        if (run.task, run.direction) == ("t", 0)
    ]
    assert spread < 0.65 * np.std(raw, axis=0)[: BIG[0]].mean()  # 0.55


def test_noise_has_the_strength_and_the_memory_of_the_residuals(model, world):
    noise = model.begin(torch.Generator().manual_seed(0)).take(4000).numpy()
    inside, outside = noise[:, 10:20].mean(1), noise[:, 40:]
    assert outside.std(0).mean() == pytest.approx(0.01, rel=0.1)
    assert inside.std() == pytest.approx(0.05 / 10**0.5, rel=0.2)
    assert lag_one(outside).mean() == pytest.approx(0.3, abs=0.06)
    assert lag_one(inside[:, None])[0] == pytest.approx(0.8, abs=0.1)


def lag_one(courses):
    courses = courses - courses.mean(0)
    return (courses[1:] * courses[:-1]).sum(0) / (courses**2).sum(0)


def test_pieces_go_on_from_one_another(model):
    whole = model.begin(torch.Generator().manual_seed(1)).take(300)
    run = model.begin(torch.Generator().manual_seed(1))
    pieces = torch.cat([run.take(40) for _ in range(7)] + [run.take(20)])
    torch.testing.assert_close(pieces, whole)
    steps = (pieces[1:] - pieces[:-1]).abs().mean(1)
    seams = steps[39::40]
    assert seams.mean() == pytest.approx(steps.mean().item(), rel=0.2)
    early, late = pieces[:100].std(), pieces[-100:].std()
    assert late == pytest.approx(early.item(), rel=0.2)


def test_a_person_is_known_from_runs_as_far_as_others_explain_them(world, tmp_path):
    """Maps of somebody new are nearer to the truth than estimates, and nobody's noise is kept."""
    new = [k for k, run in enumerate(world.runs) if run.person >= PEOPLE - 8]
    old = [k for k in range(len(world.runs)) if k not in new]
    model = LinearRun(
        label_space=SPACE.to_dict(), courses=2, shape=(VOXELS, 1, 1), voxels=VOXELS,
        people=PEOPLE - 8, patterns=3,
    )  # fmt: skip
    codes = {"sex": torch.tensor([world.sexes[k] for k in old])}
    model.fit([world.runs[k] for k in old], lambda k: world.data[old[k]], codes, TR, tmp_path)
    raw, known, mean = [], [], []
    for person in range(PEOPLE - 8, PEOPLE):
        evidence = []
        for k in (k for k in new if world.runs[k].person == person):
            run = world.runs[k]
            _, maps, rest, turned = regress(world.data[k], run, TR)
            parts = (torch.from_numpy(x).float() for x in (maps, turned @ rest))
            evidence.append(Evidence(run.direction, run.columns, *parts))
        amplitude = np.mean([abs(e.maps[0, BIG[0] :].mean()) for e in evidence])
        for each, told in zip(evidence, model.person(evidence), strict=True):
            sign = 1 if each.columns == [0] else -1
            truth = sign * amplitude / 0.03 * world.map
            usual = model.maps[each.direction, each.columns][0]
            for errors, maps in ((raw, each.maps[0]), (known, told[0]), (mean, usual)):
                errors.append(float(((maps.numpy() - truth) ** 2).mean()))
    assert np.mean(known) < 0.7 * np.mean(raw)
    assert np.mean(known) < 0.5 * np.mean(mean)


def test_it_reloads(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = LinearRun.from_pretrained(tmp_path)
    for one, other in zip(person(model, 3), person(again, 3), strict=True):
        assert torch.equal(one, other)
    first, second = (Courses(m, torch.Generator().manual_seed(0)).take(5) for m in (model, again))
    assert torch.equal(first, second)


def test_a_task_of_one_phase_encoding_is_answered_in_the_other_too(world, tmp_path):
    few = [k for k, run in enumerate(world.runs) if (run.task, run.direction) != ("u", 1)]
    model = LinearRun(
        label_space=SPACE.to_dict(), courses=2, shape=(VOXELS, 1, 1), voxels=VOXELS, people=4,
        patterns=3,
    )  # fmt: skip
    codes = {"sex": torch.tensor([world.sexes[k] for k in few])}
    model.fit([world.runs[k] for k in few], lambda k: world.data[few[k]], codes, TR, tmp_path)
    assert torch.equal(model.maps[1, 1], model.maps[0, 1])
    assert model.maps[1, 1].any()
    assert not list(tmp_path.iterdir())
