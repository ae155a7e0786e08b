import json

import numpy as np
import pytest

from neuromix.augment.errors import InputError
from neuromix.experiments.cli.main import main
from neuromix.experiments.quality.ranking import IDEALS, agreement


def rows(faults, noise=0.02, seed=0):
    """Generators whose figures are so far from ideal."""
    rng = np.random.default_rng(seed)
    return {
        f"g{k}": {
            "metrics": {
                name: {
                    "value": ideal + fault,
                    "draws": (ideal + fault + noise * rng.standard_normal(200)).tolist(),
                }
                for name, ideal in IDEALS.items()
            }
        }
        for k, fault in enumerate(faults)
    }


FAULTS = np.linspace(0.05, 0.5, 10)


def test_equal_orders_agree_and_opposite_ones_do_not():
    same = agreement(rows(FAULTS), rows(2 * FAULTS, seed=1))
    assert same["tau"] == pytest.approx(1) and same["interval"][0] > 0.8
    assert same["generators"] == [f"g{k}" for k in range(10)]
    assert agreement(rows(FAULTS), rows(FAULTS[::-1]))["tau"] == pytest.approx(-1)


def test_few_people_make_the_interval_wide():
    sure, unsure = (agreement(rows(FAULTS, noise), rows(FAULTS, noise, 1)) for noise in (0.01, 0.3))
    assert np.ptp(unsure["interval"]) > 3 * np.ptp(sure["interval"])


def test_too_much_and_too_little_are_faults_alike_but_nothing_is_too_hard_to_tell():
    one, other = rows(FAULTS[:5]), rows(FAULTS[:5])
    for each in other.values():
        each["metrics"]["spread"]["value"] = 2 - each["metrics"]["spread"]["value"]
    assert agreement(one, other)["by figure"]["spread"] == pytest.approx(1)
    for each in other.values():
        each["metrics"]["texture"]["value"] = 1 - each["metrics"]["texture"]["value"]
    assert agreement(one, other)["by figure"]["texture"] == 0  # all tied


def test_the_command_reads_two_runs(tmp_path, capsys):
    for name, seed in (("a", 0), ("b", 1)):
        (tmp_path / name).mkdir()
        content = {"rows": rows(FAULTS, seed=seed)}
        (tmp_path / name / "results.json").write_text(json.dumps(content))
    assert main(["experiment", "ranking", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "Kendall's tau 1.00" in capsys.readouterr().out
    assert main(["experiment", "ranking", str(tmp_path / "a"), str(tmp_path / "c")]) == 2
    assert "holds no finished run of fidelity" in " ".join(capsys.readouterr().err.split())


def test_two_generators_are_no_ranking():
    with pytest.raises(InputError, match="2 generators are in both runs"):
        agreement(rows(FAULTS[:2]), rows(FAULTS))
