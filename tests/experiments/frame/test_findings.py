from neuromix.experiments.frame.findings import (
    criterion,
    estimate_text,
    findings_table,
    pairs_table,
    tally,
)

CRITERIA = [
    criterion("likeness", 0.95, "at least 0.9", True),
    criterion("detail", 0.4, "within 0.1", False, "0.4 of the power"),
]


def test_a_verdict_counts_criteria_and_names_what_is_missed_with_its_aim():
    count, missed = tally(CRITERIA)
    assert count == "1 of 2 criteria"
    assert missed == "; missed are detail 0.4 of the power (within 0.1 wanted)"
    assert tally(CRITERIA[:1]) == ("1 of 1 criteria", "")


def test_a_table_of_findings_has_the_columns_that_some_finding_fills():
    table = findings_table(CRITERIA)
    assert list(table.columns) == ["what", "level", "aim", "result"]
    assert table.iloc[0].tolist() == ["likeness", "met", "at least 0.9", "0.95"]
    audit = {"name": "leak", "level": "fine", "note": "nobody", "aim": "", "value": None}
    assert list(findings_table([audit]).columns) == ["what", "level", "result"]


def test_a_value_is_shown_with_its_interval():
    assert estimate_text(0.8125, (0.75, 0.9), ".2f") == "0.81 (0.75 to 0.90)"


def test_nested_content_is_shown_a_row_a_value():
    rows = pairs_table({"sampler": "tiled", "settings": {"steps": 20}}).to_numpy().tolist()
    assert rows == [["sampler", "tiled"], ["settings, steps", "20"]]
