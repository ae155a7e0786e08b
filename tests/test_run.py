from experiments.run import new_run


def test_runs_are_numbered_in_order(tmp_path):
    assert new_run(tmp_path / "runs", "demo").name == "0001-demo"
    (tmp_path / "runs" / "notes").mkdir()
    assert new_run(tmp_path / "runs", "transfer").name == "0002-transfer"
