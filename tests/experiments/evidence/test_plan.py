import pytest

from neuromix.augment.data.cohort import Cohort
from neuromix.experiments.evidence.configs import Transfer
from neuromix.experiments.evidence.plan import sampler_pace
from neuromix.experiments.frame.pace import time_by_part
from neuromix.experiments.frame.run import Run


def test_time_is_added_up_by_part_with_the_share_of_loading(tmp_path):
    with Run.open(tmp_path, "toy", {}) as run:
        run.cell({"sampler": "A"}, lambda: {"waiting": 1.0, "seconds": 10.0})
        for seed in range(2):
            run.cell(
                {"setting": "sex", "arm": "real", "seed": seed},
                lambda: {"loading": 0.5, "waiting": 1.0, "seconds": 5.0},
            )
    time = time_by_part(run)
    assert time["seconds by part"] == {"samplers": 10.0, "fits, sex": 10.0}
    assert time["seconds"] == 20.0
    assert time["loading share"] == pytest.approx(4 / 20)


def test_guidance_costs_a_second_pass(md_phantom):
    few = Cohort.from_bids(md_phantom)
    (usual, once), (guided, twice) = (
        sampler_pace(few, Transfer(sampler="demo", sampler_steps=2, guidance=g)) for g in (1, 2)
    )
    assert twice / guided == pytest.approx(2 * once / usual)
    assert min(usual, once) > 0
