"""A small model of task fMRI: subjects with maps of their own, noise with memory and networks."""

import numpy as np
import pandas as pd
from scipy import ndimage, signal

from neuromix.augment.metrics.glm import design_matrix
from neuromix.augment.metrics.task_runs import TaskRun

SHAPE, TR, FRAMES = (8, 9, 7), 2.0, 80
AFFINE = np.diag([12.0, 12.0, 12.0, 1.0])
TASKS = {"motor": ("left", "right"), "language": ("math", "story")}


class People:
    """Draws subjects whose responses, anatomy and networks vary around the population's."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.mask = np.zeros(SHAPE, bool)
        self.mask[1:-1, 1:-1, 1:-1] = True
        names = [f"{task}/{name}" for task, pair in TASKS.items() for name in pair]
        self.maps = {name: 2 * self.blob(rng) for name in names}
        self.networks = self.smooth(rng, 6)
        self.image = 800 + 100 * self.smooth(rng, 1)[0]

    def smooth(self, rng, count):
        fields = rng.standard_normal((count, *SHAPE))
        fields = np.stack([ndimage.gaussian_filter(field, 1.0) for field in fields])
        return fields / fields[:, self.mask].std(axis=1)[:, None, None, None]

    def blob(self, rng):
        centre = [rng.uniform(2, side - 3) for side in SHAPE]
        index = np.indices(SHAPE)
        offset = sum((axis - at) ** 2 for axis, at in zip(index, centre, strict=True))
        return np.exp(-offset / 3)

    def runs(self, count, seed, tasks=tuple(TASKS), repeats=("LR", "RL"), frames=FRAMES):
        rng = np.random.default_rng(seed)
        return [run for k in range(count) for run in self.person(f"{seed}x{k}", rng, tasks, repeats,
                                                                 frames)]  # fmt: skip

    def person(self, name, rng, tasks, repeats, frames):
        size = np.exp(0.3 * rng.standard_normal())
        own = {c: size * (m + 0.5 * self.smooth(rng, 1)[0] * m) for c, m in self.maps.items()}
        image = self.image + 60 * self.smooth(rng, 1)[0]
        networks = self.networks + 0.5 * self.smooth(rng, len(self.networks))
        for task in tasks:
            for repeat in repeats:
                events = make_events(TASKS[task], rng, frames)
                design = design_matrix(events, frames, TR)
                percent = sum(np.multiply.outer(own[f"{task}/{name}"], design[name].to_numpy())
                              for name in TASKS[task])  # fmt: skip
                slow = memory(rng, (len(networks), frames), 0.7)
                percent = percent + 0.5 * np.einsum("nxyz,nt->xyzt", networks, slow)
                percent += memory(rng, (*SHAPE, frames), 0.3)
                data = (image[..., None] * (1 + percent / 100) * self.mask[..., None]).astype("f4")
                yield TaskRun(name, task, data, events, TR, repeat)


def memory(rng, shape, rho):
    white = rng.standard_normal(shape) * np.sqrt(1 - rho**2)
    return signal.lfilter([1.0], [1.0, -rho], white, axis=-1)


def make_events(names, rng, frames=FRAMES):
    onsets = np.arange(6, frames * TR - 20, 24) + rng.uniform(0, 6)
    order = rng.permutation([names[k % len(names)] for k in range(len(onsets))])
    return pd.DataFrame({"onset": onsets, "duration": 12.0, "trial_type": order})


PEOPLE = People()
