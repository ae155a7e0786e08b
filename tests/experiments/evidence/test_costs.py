import pytest

from neuromix.experiments.evidence.arms import Sampling
from neuromix.experiments.evidence.costs import pace
from neuromix.experiments.frame.pace import spent
from neuromix.experiments.frame.run import Run


def test_time_is_added_up_by_part_with_the_share_of_loading(tmp_path):
    with Run.open(tmp_path, "toy", {}) as run:
        run.cell({"sampler": "A"}, lambda: {"waiting": 1.0, "seconds": 10.0})
        for seed in range(2):
            run.cell(
                {"setting": "sex", "arm": "real", "seed": seed},
                lambda: {"loading": 0.5, "waiting": 1.0, "seconds": 5.0},
            )
    time = spent(run)
    assert time["seconds by part"] == {"samplers": 10.0, "fits, sex": 10.0}
    assert time["seconds"] == 20.0
    assert time["loading share"] == pytest.approx(4 / 20)


def test_guidance_costs_a_second_pass(md_phantom):
    usual, guided = (pace(md_phantom, 4.0, Sampling("demo", 2, guidance=g), 0) for g in (1.0, 2.0))
    assert guided.sample / guided.sampler == pytest.approx(2 * usual.sample / usual.sampler)
    assert min(usual) > 0
