import json
from dataclasses import replace

import pytest

from augment.errors import InputError
from augment.samplers.modality import ModalityCompleter
from augment.samplers.modality_config import MODALITIES, PRESETS, ModalityConfig
from augment.train import TrainConfig
from experiments import completion
from experiments.cli import main
from experiments.completion import Completion, run, summarise

SHORT = TrainConfig(
    steps=2, batch_size=4, warmup=1, validate_every=2, checkpoint_every=2, log_every=1
)
CONFIG = ModalityConfig(
    widths=(8,), heads=2, refiner_width=8, refiner_blocks=1, box=6, steps=2,
    training=SHORT, refining=SHORT,
)  # fmt: skip
ARMS = ["full", "source-blind"]


def stop(*args, **settings):
    raise AssertionError("done twice")


def test_the_command_compares_and_resumes(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PRESETS, "demo", CONFIG)
    command = ["experiment", "completion", str(tmp_path / "runs"), "--preset", "demo"]
    command += ["--train", "6", "--validation", "2", "--heldout", "3", "--samples", "2"]
    command += ["--spacing", "12", "--arms", *ARMS, "--baselines", "mean volume", "PCA regression"]
    assert main(command) == 0
    folder = tmp_path / "runs" / "0001-completion"
    results = json.loads((folder / "results.json").read_text())
    for want in MODALITIES:
        table = results["tables"][want]
        assert set(table) == {*ARMS, "mean volume", "PCA regression"}
        assert {"psnr", "ssim", "crps", "coverage", "spectrum", "pattern"} <= set(table["full"])
        assert "coverage" not in table["mean volume"]
        assert table["full"]["psnr"]["value"] > table["mean volume"]["psnr"]["value"]
        told = results["source"][want]["full"]
        assert next(value for name, value in told.items() if "shuffle" in name) > 0.3
        assert (folder / f"montage-{want}.png").stat().st_size > 1000
    assert "dB of the ideal regression" in results["verdict"]
    with monkeypatch.context() as patch:  # finished cells are only read
        patch.setattr(ModalityCompleter, "fit", stop)
        patch.setattr(completion, "completion_table", stop)
        assert main(command) == 0
    assert json.loads((folder / "results.json").read_text()) == results


def test_too_few_subjects_are_told(tiny_pairs, tmp_path):
    with pytest.raises(InputError, match="6 subjects have both modalities, and 220 are asked for"):
        run(Completion(data=str(tiny_pairs)), tmp_path)


def test_the_verdict_names_the_best_baseline():
    def cell(name, psnr, kind="baseline", **more):
        return {"cell": {kind: name, "want": "fmri"}, "table": {"psnr": {"value": psnr}}, **more}

    records = [cell("weak", 10.0), cell("strong", 20.0)]
    errors = {"own": 1.0, "shuffled": 4.0, "mean": 4.0}
    for want in MODALITIES:
        first = cell("full", 21.0, "arm", errors=errors)
        records.append(first | {"cell": {"arm": "full", "want": want}})
    told = summarise(records, None)["verdict"]
    assert told == ("fmri 21.00 dB against 20.00 dB of the best baseline, strong; dmri 21.00 dB.")


def test_arms_differ_from_the_full_system_in_what_they_are_named_for(tiny_pairs, tmp_path):
    settings = Completion(data=str(tiny_pairs), preset="demo", train=3, validation=1, heldout=2)
    bench = completion.Bench.__new__(completion.Bench)
    bench.settings = settings
    full = bench.config("full")
    assert bench.config("source-blind") == replace(full, source_blind=True)
    assert bench.config("pattern") == replace(full, pattern=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ("nothing",)}, "arms 'nothing' is not known; allowed are full, source-blind"),
        ({"baselines": ("best",)}, "baselines 'best' is not known; allowed are mean volume"),
        ({"preset": "huge"}, "preset 'huge' is not known; allowed are demo"),
        ({"arms": ()}, "no arm came"),
    ],
)
def test_names_that_are_not_known_are_told_before_anything_is_made(changes, message):
    with pytest.raises(InputError, match=message):
        Completion(**changes)
