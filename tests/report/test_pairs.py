"""compare_results: image by image, on the images that both hold."""

import numpy as np
import pytest

from tcertify.report import Result, compare_results


def result(name, image_id, radius, label=None, predicted=None):
    ids = np.array(image_id)
    ones = np.ones(len(ids), np.int64)
    return Result(
        name,
        ids,
        ones if label is None else np.array(label),
        ones if predicted is None else np.array(predicted),
        np.array(radius),
    )


def test_images_are_compared_by_their_number_not_their_place():
    first = result("a", [2, 0, 1], [0.1, 0.9, 0.5])
    second = result("b", [0, 1, 2], [0.9, 0.2, 0.6])
    found = compare_results(first, second, [0.0, 0.4])
    assert found.gained(0.4) == [2]
    assert found.lost(0.4) == [1]
    assert found.gain.gained.tolist() == [0, 1]
    assert found.gain.lost.tolist() == [0, 1]


def test_a_wrong_class_counts_at_no_radius():
    found = compare_results(
        result("a", [0], [0.9], predicted=[0]), result("b", [0], [0.2]), [0.0, 0.5]
    )
    assert found.gain.gained.tolist() == [1, 0]


def test_images_of_one_result_alone_are_left_out_and_counted():
    found = compare_results(result("a", [0, 1], [1, 1]), result("b", [1, 2, 3], [1, 1, 1]), [0])
    assert found.image_id.tolist() == [1]
    assert (found.only_first, found.only_second) == (1, 2)


def test_other_data_are_refused():
    with pytest.raises(ValueError, match="no image in common"):
        compare_results(result("a", [0], [1]), result("b", [1], [1]), [0])
    with pytest.raises(ValueError, match="image 0 has label 1 in one and 2 in the other"):
        compare_results(result("a", [0], [1]), result("b", [0], [1], label=[2]), [0])
