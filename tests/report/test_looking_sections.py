import numpy as np
import pytest
import xarray as xr

from memhooks.report.looking_sections import contrast_notes, contrast_rows, contrast_table

NOTHING = {"adjusted": np.nan, "p_adjusted": np.nan}
BY_MAX, BY_L2 = "largest |gradient|", "L2 norm"


def contrast(*controls, memorized="memorized", pooling="max_gradient", matched=False, **values):
    """What `profile_contrasts` would give, one value for all controls; intervals reach 0.1 to either side."""
    found = {"difference": -0.3, "p": 0.001, "adjusted": 0.2, "p_adjusted": 0.02, "overlap": 0.25} | values
    found |= {"nll_memorized": 0.051, "nll_control": 3.1, "n_memorized": 24, "n_control": 22}
    found |= {"n_common_memorized": 9, "n_common_control": 8}
    found |= {name: values[name] for name in values}
    for name, p, survives in (("difference", "p", "survives"), ("adjusted", "p_adjusted", "survives_adjusted")):
        low, high = found[name] - 0.1, found[name] + 0.1
        found |= {f"{name}_low": low, f"{name}_high": high, survives: bool(low * high > 0 and found[p] <= 0.05)}
    columns = {name: ("row", np.full(len(controls), value)) for name, value in found.items()}
    about = {"memorized": memorized, "pooling": pooling} | ({"matched": 1} if matched else {})
    return xr.Dataset(columns, {"row": list(controls)}, about)


def unmatched(memorized, control):
    """What the study keeps where no paragraphs have equal losses."""
    means = {"nll_memorized": ("row", [0.01]), "nll_control": ("row", [1.5])}
    about = {"memorized": memorized, "pooling": "max_gradient", "matched": 1}
    return xr.Dataset(means, {"row": [control]}, about)


def test_a_row_says_all_of_one_contrast_and_one_pooling():
    assert contrast_rows({"A": contrast("control")}) == [
        {
            "memorized minus control": "memorized (A) minus never seen (C)",
            "pooling": BY_MAX,
            "NLL": "0.05 / 3.10",
            "paragraphs": "24 / 22",
            "difference, layers": "-0.30 [-0.40, -0.20]",
            "p": "0.0010",
            "memorized is": "lower",
            "losses in common (paragraphs)": "25% (9 / 8)",
            "at equal loss, layers": "+0.20 [+0.10, +0.30]",
            "p at equal loss": "0.0200",
            "at equal loss it is": "higher",
        }
    ]


@pytest.mark.parametrize(
    ("difference", "p", "word"),
    [(-0.3, 0.01, "lower"), (0.3, 0.01, "higher"), (-0.05, 0.01, "no difference"), (0.3, 0.2, "no difference")],
)
def test_the_sign_stands_there_as_a_word(difference, p, word):
    row = contrast_rows({"A": contrast("control", difference=difference, p=p)})[0]
    assert row["memorized is"] == word
    assert row["at equal loss it is"] == "higher"  # whatever the raw difference says
    adjusted = contrast_rows({"A": contrast("control", adjusted=difference, p_adjusted=p)})[0]
    assert (adjusted["memorized is"], adjusted["at equal loss it is"]) == ("lower", word)


def test_what_cannot_be_adjusted_says_so():
    row = contrast_rows({"A": contrast("control", **NOTHING)})[0]
    assert row["at equal loss, layers"] == row["p at equal loss"] == "-"
    assert row["at equal loss it is"] == "too few of equal loss"


def test_rows_of_both_poolings_of_matched_pairs_and_of_foreign_names_cannot_be_taken_for_each_other():
    tables = {
        "A": contrast("control", "twin", "<mine>"),
        "A, l2_gradient": contrast("control", pooling="l2_gradient"),
        "rms": contrast("control", pooling="rms_gradient"),
        "matched": contrast("control", matched=True),
    }
    rows = contrast_rows(tables)
    labels = [(row["memorized minus control"].removeprefix("memorized (A) minus "), row["pooling"]) for row in rows]
    assert labels == [
        ("never seen (C)", BY_MAX),
        ("A under the twin", BY_MAX),
        ("<mine>", BY_MAX),
        ("never seen (C)", BY_L2),
        ("never seen (C)", "rms_gradient"),
        ("never seen (C), pairs of equal loss", BY_MAX),
    ]
    assert len({tuple(row) for row in rows}) == 1  # the page takes its columns from the first row


def test_matched_pairs_are_not_adjusted_too():
    row = contrast_rows({"any name": contrast("control_own", memorized="partly", matched=True)})[0]
    assert row["memorized is"] == "lower"
    assert list(row.values())[-4:] == ["-"] * 4


def test_too_few_pairs_and_none_have_no_verdict():
    few = contrast_rows({"x": contrast("control", matched=True, n_control=7)})[0]
    assert (few["paragraphs"], few["difference, layers"], few["p"]) == ("24 / 7", "-", "-")
    assert few["memorized is"] == "too few of equal loss"
    none = contrast_rows({"x": unmatched("memorized", "control_own")})[0]
    assert none["NLL"] == "0.01 / 1.50"
    assert none["paragraphs"] == "0 / 0"
    assert none["memorized is"] == "no paragraph of equal loss"
    assert list(few) == list(none)


def test_the_notes_say_where_the_pooling_decides():
    tables = {
        "A": contrast("control", "twin", "natural", **NOTHING),
        "A, l2_gradient": contrast("control", difference=0.3, pooling="l2_gradient", **NOTHING),
        "t": contrast("twin", difference=0.01, pooling="l2_gradient", **NOTHING),
        "n": contrast("natural", pooling="l2_gradient", **NOTHING),
    }
    sign, alone, _ = contrast_notes(tables)
    assert sign == (
        "The sign depends on the pooling: memorized (A) against never seen (C) is lower by largest |gradient|, higher "
        "by L2 norm."
    )
    assert alone == (
        "Found by one pooling alone: memorized (A) against A under the twin is lower by largest |gradient|, no "
        "difference by L2 norm."
    )
    same, _ = contrast_notes({"A": tables["A"].sel(row=["natural"]), "n": tables["n"]})
    assert same == "All 1 contrasts shown by several poolings have the same verdict by each."
    assert len(contrast_notes({"A": tables["A"]})) == 1


def test_the_notes_count_the_tests_shown():
    tables = {
        "A": contrast("control", "twin", **NOTHING),
        "adjusted": contrast("natural"),
        "matched": contrast("control", matched=True),
        "few": contrast("twin", matched=True, n_memorized=2),
        "none": unmatched("memorized", "control_own"),
    }
    (note,) = contrast_notes(tables)
    assert note.startswith("The table holds 5 tests (4 raw or matched, 1 adjusted)")
    assert "about 0.2 would pass by chance" in note
    assert note.endswith("p must be at most 0.01.")
    shown = [row["p"] != "-" for row in contrast_rows(tables)] + [
        row["p at equal loss"] != "-" for row in contrast_rows(tables)
    ]
    assert sum(shown) == 5
    assert contrast_notes({"none": tables["none"]}) == ["The table holds no test."]


def test_the_pages_table_has_a_row_for_each_comparison_and_the_poolings_side_by_side():
    tables = {"A": contrast("control"), "A by another": contrast("control", difference=0.4, **NOTHING)}
    tables["A by another"].attrs["pooling"] = "l2_gradient"
    (row,) = contrast_table(tables)
    one, other = (contrast_rows({"": table})[0] for table in tables.values())
    assert row["memorized minus control"] == one["memorized minus control"]
    assert row["largest |gradient|: layers"].startswith(one["difference, layers"])
    assert row["largest |gradient|: layers"].endswith(one["memorized is"])
    assert row["L2 norm: layers"].startswith(other["difference, layers"])
    assert row["largest |gradient|, at equal loss"].startswith(one["at equal loss, layers"])
    assert "L2 norm, at equal loss" not in row  # nothing to say in any row
    none = contrast_table({"x": unmatched("memorized", "control_own")})[0]
    assert none["largest |gradient|: layers"] == "no paragraph of equal loss"
