"""Results: a run file and its log say the same, in one form."""

import pytest

from tcertify.logs import LogError, write_log
from tcertify.report import read_result, read_results
from tcertify.runs import certify_dataset, export_run, predict_dataset
from tests.tiny import Network, images


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("results") / "a.tsv.run"
    table = certify_dataset(Network(), images(), sigma=0.5, out=path, n0=20, n=200)
    export_run(table, path.with_suffix(""))
    return path


def test_a_run_and_its_log_hold_the_same_certificates(run):
    of_run, of_log = read_result(run), read_result(run.with_suffix(""))
    for name in ("image_id", "label", "predicted", "correct"):
        assert getattr(of_run, name).tolist() == getattr(of_log, name).tolist()
    assert of_log.radius == pytest.approx(of_run.radius, abs=1e-9)
    assert (of_log.radius <= of_run.radius).all()
    assert (of_run.name, of_run.method, of_run.sigma) == ("a", "joint", 0.5)
    assert of_log.n is None
    assert of_run.n.tolist() == [200] * 12


def test_results_of_one_name_are_numbered(run):
    assert [r.name for r in read_results([run, run.with_suffix("")])] == ["1 a", "2 a"]


def test_methods_give_one_result_each_from_the_same_votes(run):
    certify, joint = read_results([run], ["certify", "joint"])
    assert (certify.name, joint.name) == ("certify", "joint")
    assert (certify.radius <= joint.radius).all()
    with pytest.raises(ValueError, match="keeps no votes"):
        read_results([run.with_suffix("")], ["certify"])


def test_a_run_that_stopped_early_says_what_it_decided(tmp_path):
    path = tmp_path / "early.run"
    certify_dataset(Network(), images(), sigma=0.5, out=path, n=1000, radii=[0, 0.25])
    result = read_result(path)
    assert (result.stopped_early, result.radii) == (True, (0.0, 0.25))


def test_a_run_of_predictions_decides_the_radius_0_alone(tmp_path):
    predict_dataset(Network(), images(), sigma=0.5, out=tmp_path / "p.run", n=100)
    result = read_result(tmp_path / "p.run")
    assert (result.predicts, result.stopped_early, result.radii) == (True, False, (0.0,))


@pytest.mark.parametrize("content", [b"", b"nothing of the kind\n", b"\x00" * 100])
def test_a_file_that_is_neither_is_refused_with_its_name(tmp_path, content):
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(LogError, match="other, line 1"):
        read_result(tmp_path / "other")


def test_a_log_that_says_it_stopped_early_is_known_as_such(tmp_path):
    columns = {"idx": [0, 1], "label": [1, 1], "predict": [1, 0], "radius": [0.5, 0.1]}
    write_log(tmp_path / "e.tsv", **columns, seconds=[0, 0], method="joint-early")
    result = read_result(tmp_path / "e.tsv")
    assert (result.stopped_early, result.radii, result.method) == (True, None, "joint")


@pytest.mark.parametrize(
    ("method", "radii"), [("joint-holm-reserved", (0.5,)), ("top-3-reported", None)]
)
def test_a_log_whose_images_depend_on_each_other_is_known_as_such(tmp_path, method, radii):
    columns = {"idx": [0, 1, 2], "label": [1, 1, 1], "predict": [1, -1, 0]}
    radius = [0.5, 0, 0.5]
    write_log(tmp_path / "e.tsv", **columns, radius=radius, seconds=[0, 0, 0], method=method)
    result = read_result(tmp_path / "e.tsv")
    assert (result.reported, result.radii, result.method) == (True, radii, method)


def test_a_shard_is_called_one(tmp_path):
    path = tmp_path / "a.run"
    certify_dataset(Network(), images(), sigma=0.5, out=path, n0=20, n=200, shard=(1, 3))
    assert read_result(path).name == "a (shard: 4 of 12 images)"
    (result,) = read_results([path], ["certify"])
    assert (result.name, result.shard_of) == ("certify (shard: 4 of 12 images)", 12)
