"""The table: right numbers in every layout, and none that a run does not support."""

import csv
import io
import json

import numpy as np
import pytest

from tcertify.bounds import clopper_pearson_lower, clopper_pearson_upper
from tcertify.report import Result, certified_table, radii_up_to
from tcertify.statistics.populations import population_sentence


def result(name="a", radius=(0.0, 0.3, 0.6, 0.9), label=(0, 1, 1, 1), **others):
    radius = np.array(radius)
    predicted = np.where(radius > 0, 1, -1)
    return Result(name, np.arange(len(radius)), np.array(label), predicted, radius, **others)


BETTER = {"name": "b_1", "radius": (0.4, 0.4, 0.7, 0.9), "label": (1, 1, 1, 1)}


def test_accuracies_stand_with_their_exact_intervals():
    (record,) = certified_table([result()], [0, 0.5]).records()
    assert [entry["value"] for entry in record["certified_accuracy"]] == [0.75, 0.5]
    assert record["certified_accuracy"][1] == {
        "radius": 0.5,
        "value": 0.5,
        "lower": float(clopper_pearson_lower(2, 4, 0.025)),
        "upper": float(clopper_pearson_upper(2, 4, 0.025)),
    }
    assert record["acr"]["value"] == pytest.approx(0.45)
    assert record["abstained"]["value"] == 0.25


def test_a_record_is_plain_json():
    early = result(stopped_early=True, radii=(0.0,))
    text = json.dumps(certified_table([result(), early]).records(), allow_nan=False)
    assert json.loads(text)[1]["acr"] is None


def test_text_rounds_radii_down_and_intervals_outward():
    third = result(radius=(0.29999999, 0.0, 0.0), label=(1, 1, 1))
    lines = certified_table([third], [0]).to("text").splitlines()
    assert lines[1].split()[:3] == ["radius", "0", "0.3333"]
    lower, upper = (float(cell.strip("[],")) for cell in lines[1].split()[3:5])
    assert lower <= clopper_pearson_lower(1, 3, 0.025) < lower + 1e-4
    assert upper - 1e-4 < clopper_pearson_upper(1, 3, 0.025) <= upper
    assert lines[2].split()[:2] == ["ACR", "0.0999"]


def test_without_radii_the_table_reaches_the_largest_radius():
    assert certified_table([result()]).radii == (0.0, 0.25, 0.5, 0.75, 1.0)


@pytest.mark.parametrize(
    ("largest", "step", "count"),
    [(0.0, None, 1), (100.0, None, 14), (1e308, None, 12), (1, 0.5, 3)],
)
def test_radii_go_in_equal_steps_to_the_largest(largest, step, count):
    radii = radii_up_to(largest, step)
    assert len(radii) <= 16
    assert radii[0] == 0
    assert radii[-1] >= largest
    assert np.allclose(np.diff(radii), radii[1] if len(radii) > 1 else 0)


def test_a_step_that_prints_without_end_is_refused():
    with pytest.raises(ValueError, match="at most 1000 radii up to 1, got 1e-12"):
        radii_up_to(1, 1e-12)


def test_an_early_stopped_run_shows_the_radii_it_decided_and_nothing_else():
    early = result(stopped_early=True, radii=(0.0, 0.5), n=np.full(4, 10))
    table = certified_table([early])
    assert table.radii == (0.0, 0.5)
    assert "ACR" not in table.to("text")
    assert "abstained" not in table.to("text")
    assert "mean samples" in table.to("text")
    (note,) = table.notes()
    assert "stopped early" in note
    (record,) = certified_table([early], [0.25, 0.5]).records()
    assert [entry["value"] for entry in record["certified_accuracy"]] == [None, 0.5]


def test_a_log_of_an_early_stopped_run_needs_the_radii():
    early = result(stopped_early=True)
    with pytest.raises(ValueError, match="give them, or the run file"):
        certified_table([early])
    assert certified_table([early], [0.5]).columns[0].acr is None


def test_predictions_have_an_accuracy_and_no_radius():
    table = certified_table([result(radius=(0.0,) * 4, method="predict", radii=(0.0,))])
    assert table.to("text").splitlines()[1].startswith("accuracy")
    assert "ACR" not in table.to("text")


def test_markdown_and_latex_print_the_best_in_bold():
    table = certified_table([result(), result(**BETTER)], [0, 0.5])
    worse, better = table.to("markdown").splitlines()[2:]
    assert better.startswith("| b_1 | **1.000** [")
    assert "**" not in worse
    assert "| 0.500 [" in better  # as the other: none is the best
    latex = table.to("latex")
    assert r"b\_1 & \textbf{1.000} {\scriptsize [" in latex
    assert latex.startswith(r"\begin{tabular}{lrrrr}")
    assert "$r = 0.5$" in latex


def test_one_result_alone_is_not_the_best():
    assert "**" not in certified_table([result()]).to("markdown")


def test_csv_holds_every_number_exactly():
    table = certified_table([result(n=np.full(4, 100))], [0.5])
    rows = [*csv.DictReader(io.StringIO(table.to("csv")))]
    assert [row["quantity"] for row in rows] == [
        "certified accuracy",
        "ACR",
        "abstained",
        "mean samples",
    ]
    assert float(rows[0]["lower"]) == float(clopper_pearson_lower(2, 4, 0.025))
    assert float(rows[3]["value"]) == 100


def test_the_compact_table_shows_the_gain_of_the_last_over_the_first():
    lines = certified_table([result(), result(**BETTER)], [0, 0.5]).compact(gain=True).splitlines()
    assert lines[0].split() == ["r=0", "r=0.5", "ACR", "abstain"]
    assert lines[3].split() == ["gain", "+0.250", "+0.000", "+0.150", "-0.250"]


def test_images_that_failed_or_are_missing_are_said():
    notes = certified_table([result(failed=2, missing=3)]).notes()
    assert notes == [
        "a: 2 images failed and count as wrong.",
        "a is not complete: 3 images are still to do.",
    ]


def test_what_cannot_be_tabulated_is_refused():
    with pytest.raises(ValueError, match="at least one run or log"):
        certified_table([])
    with pytest.raises(ValueError, match="holds no image yet"):
        certified_table([result(radius=(), label=())])
    with pytest.raises(ValueError, match="`layout` must be one of text, markdown, latex, csv"):
        certified_table([result()]).to("html")


def told(of, radii=(0.0, 0.25, 0.5)):
    return [note for note in certified_table(of, radii).notes() if "population" in note]


def test_the_population_is_spoken_of_at_the_first_radius_and_at_the_one_nearest_to_sigma():
    made = {"alpha": 0.001, "sigma": 0.5, "method": "joint"}
    one = result(radius=(0.3, 0.6, 0.6, 0.9), label=(1, 1, 1, 1), **made)
    hits = [
        int((one.correct & (one.radius >= radius) & (one.radius > 0)).sum()) for radius in (0, 0.5)
    ]
    expected = [
        population_sentence(radius, k, 4, alpha=0.001)
        for radius, k in zip((0, 0.5), hits, strict=True)
    ]
    assert told([one]) == expected
    assert told([one], (0.25, 0.5)) == [
        population_sentence(0.25, hits[0], 4, alpha=0.001),
        expected[1],
    ]
    two = told([one, result(name="b", **made)])
    assert two[0] == f"a: {expected[0]}"


@pytest.mark.parametrize(
    "others",
    [
        {"alpha": None},
        {"sigma": None},
        {"method": "predict", "radii": (0.0,)},
        {"reported": True},
        {"radius": (0.0, 0.0, 0.0, 0.0)},
    ],
)
def test_nothing_is_said_of_the_population_without_ground(others):
    made = {"alpha": 0.001, "sigma": 0.5, "method": "joint", **others}
    assert told([result(**made)], (0.0,)) == []


def test_top_k_tables_speak_of_the_most_probable_classes():
    made = {"alpha": 0.001, "sigma": 0.5, "method": "top-3", "top_k": 3}
    sentences = told([result(**made)])
    assert sentences
    assert all("the label stays among the 3 most probable classes" in one for one in sentences)


def test_the_claim_of_a_result_stands_first_below_its_table():
    assert certified_table([result(claim="It holds.", failed=1)]).notes()[0] == "It holds."


def test_reported_images_depend_on_each_other_so_that_no_interval_is_shown():
    table = certified_table([result(reported=True)], [0.0, 0.5])
    assert "[" in certified_table([result()], [0.5]).to("text")
    assert "[" not in table.to("text")
    assert table.to("markdown").splitlines()[-1] == "| a | 0.750 | 0.500 | 0.449 | 0.250 |"
    assert table.to("csv").splitlines()[1].endswith(",,")
    (record,) = table.records()
    for found in (*record["certified_accuracy"], record["acr"], record["abstained"]):
        assert found["value"] is not None
        assert (found["lower"], found["upper"]) == (None, None)


def test_reported_images_of_an_early_stopped_run_are_not_said_to_be_those_of_the_full_run():
    one = result(stopped_early=True, radii=(0.5,), reported=True)
    (note,) = certified_table([one], [0.5]).notes()
    assert "may lie below those of the full run" in note
