import nibabel as nib
import numpy as np
import pandas as pd

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.phantom.task import FRAMES, TASKS, TR


def test_every_subject_has_all_tasks_in_both_directions(task_phantom):
    cohort = Cohort.from_bids(task_phantom)
    assert len(cohort) == 2 * 7 * 2
    assert set(cohort.table["task"]) == set(TASKS)
    assert set(cohort.table["dir"]) == {"LR", "RL"}
    assert cohort.validate() == []


def test_runs_keep_tr_and_events_lie_inside(task_phantom):
    for path in sorted(task_phantom.rglob("*task-motor*_bold.nii.gz")):
        image = nib.load(path)
        assert image.shape[3] == FRAMES
        assert image.header.get_zooms()[3] == TR
        stem = path.name.split("_space")[0]
        events = pd.read_csv(path.parent / f"{stem}_events.tsv", sep="\t")
        assert set(events["trial_type"]) == set(TASKS["motor"])
        assert (events["onset"] + events["duration"]).max() < FRAMES * TR


def load(path):
    return nib.load(path).get_fdata(dtype=np.float32)


def glm_map(path):
    """Effect of left hand against right hand, by least squares on convolved events."""
    from nilearn.glm.first_level import make_first_level_design_matrix

    events = pd.read_csv(path.parent / f"{path.name.split('_space')[0]}_events.tsv", sep="\t")
    design = make_first_level_design_matrix(TR * np.arange(FRAMES), events, drift_order=2)
    run = load(path)
    beta = np.linalg.lstsq(design.to_numpy(), run.reshape(-1, FRAMES).T, rcond=None)[0]
    names = list(design.columns)
    effect = beta[names.index("lefthand")] - beta[names.index("righthand")]
    return effect.reshape(run.shape[:3]), nib.load(path).affine


def test_the_left_hand_lives_on_the_right_side(task_phantom):
    path = next(task_phantom.rglob("*task-motor_dir-LR*_bold.nii.gz"))
    effect, affine = glm_map(path)

    def around(x, y, z):
        i, j, k = np.round(np.linalg.inv(affine) @ [x, y, z, 1])[:3].astype(int)
        return effect[i - 1 : i + 2, j - 1 : j + 2, k - 1 : k + 2].mean()

    assert around(40, -24, 58) > 0
    assert around(-38, -26, 58) < 0


def test_subjects_differ_more_than_directions_and_directions_more_than_tasks(task_phantom):
    means = {}
    for path in task_phantom.rglob("*_bold.nii.gz"):
        subject, task, direction = path.name.split("_")[:3]
        means[subject, task, direction] = load(path).mean(3)
    subjects, tasks, directions = (sorted({key[k] for key in means}) for k in range(3))

    def spread(a, b):
        return float(((means[a] - means[b]) ** 2).mean())

    s, t, d = subjects[0], tasks[0], directions[0]
    by_subject = spread((s, t, d), (subjects[1], t, d))
    by_direction = spread((s, t, d), (s, t, directions[1]))
    by_task = np.mean([spread((s, t, d), (s, other, d)) for other in tasks[1:]])
    assert by_subject > by_direction > by_task
