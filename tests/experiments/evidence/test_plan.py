from dataclasses import replace

import pytest

from neuromix.experiments.evidence import plan
from neuromix.experiments.evidence.configs import Transfer
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


def test_guidance_costs_a_second_pass(monkeypatch):
    monkeypatch.setattr(plan, "map_sampler_pace", lambda few, config: (60.0, 0.5))
    config = Transfer(sampler="demo", sampler_steps=2)
    assert plan.sampler_pace(None, config) == (60.0, plan.SOLVER_STEPS * 0.5)
    guided = replace(config, guidance=2.0)
    assert plan.sampler_pace(None, guided) == (60.0, plan.SOLVER_STEPS * 1.0)
