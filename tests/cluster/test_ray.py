"""Runs on Ray: the rows of one process, whatever happens to workers, nodes and the driver."""

import functools
import json
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tcertify.cluster import Ray
from tcertify.errors import RunError, RunFileError, StoppedError, VoidCertificateError
from tcertify.runs import verify_run
from tcertify.runs.file import RunFile
from tests.cli import faulty
from tests.cluster import inputs
from tests.runs.models import FailsOn
from tests.tiny import Network, SlowNetwork, certify, grey_images, images, rows_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster(one_ray):
    """Two nodes of one core each on this machine, and this process connected to them."""
    with one_ray() as found:
        found.add_node(num_cpus=1)
        found.connect()
        yield found


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.run"


def on_ray(path, model=None, data=None, load=None, workers=2, **options):
    return certify(path, model, data, cluster=Ray(workers=workers, load=load), **options)


def told(path):
    """What a run file says, but for times, processes and workers."""
    with RunFile(path) as run:
        environment = {
            name: value
            for name, value in run.environment.items()
            if name not in ("started", "pid", "workers")
        }
        return run.parameters, environment, run.plan, run.whole, run.warnings, rows_of(path)


@pytest.mark.parametrize("workers", [2, 4])
def test_a_run_on_workers_is_the_run_of_one_process_but_for_its_record_of_workers(
    cluster, tmp_path, workers
):
    options = {"data": grey_images(40), "radii": [0.0, 0.25], "n": 2000, "seed": 7}
    certify(tmp_path / "a.run", **options)
    where = Ray(workers=workers, cpus=0.5)
    table = certify(tmp_path / "b.run", cluster=where, **options)
    assert told(tmp_path / "b.run") == told(tmp_path / "a.run")
    assert not verify_run(tmp_path / "b.run").findings
    threads = [worker["threads"] for worker in table.environment["workers"]]
    assert threads == [1] * workers
    assert table.settings.levels == 255


@pytest.mark.parametrize("charge_noise", [False, True])
def test_an_image_with_many_samples_is_cut_over_the_workers(
    cluster, tmp_path, monkeypatch, charge_noise
):
    monkeypatch.setattr("tcertify.cluster.ray.CUT", 1)
    options = {"n": 20_000, "radii": [0.0, 0.5], "batch_size": 128, "indices": [0, 3, 4]}
    options["charge_noise"] = charge_noise
    certify(tmp_path / "a.run", **options)
    on_ray(tmp_path / "b.run", **options)
    assert told(tmp_path / "b.run") == told(tmp_path / "a.run")
    assert verify_run(tmp_path / "b.run").findings == ()


def test_the_workers_plan_and_keep_to_a_budget(cluster, tmp_path):
    options = {"n": 10_000, "budget": 40_000, "data": grey_images(12)}
    certify(tmp_path / "a.run", **options)
    on_ray(tmp_path / "b.run", **options)
    assert told(tmp_path / "b.run") == told(tmp_path / "a.run")
    assert verify_run(tmp_path / "b.run").findings == ()


@pytest.mark.parametrize("cut", [1, 10**7])
def test_the_workers_go_on_with_the_votes_of_the_run_to_top_up(cluster, tmp_path, monkeypatch, cut):
    monkeypatch.setattr("tcertify.cluster.ray.CUT", cut)
    options = {"method": "joint", "radii": [0.0, 0.25]}
    certify(tmp_path / "first.run", indices=range(9), reserve=0.5, **options)
    options |= {"n": 2000, "top_up": tmp_path / "first.run"}
    certify(tmp_path / "a.run", **options)
    on_ray(tmp_path / "b.run", **options)
    assert told(tmp_path / "b.run") == told(tmp_path / "a.run")
    with pytest.raises(RunFileError, match=r"Cannot top up .*: `sigma` is 0.5 there and 1 here"):
        on_ray(tmp_path / "c.run", **options, sigma=1)


def test_a_worker_that_is_killed_is_replaced_and_its_shard_cast_again(cluster, tmp_path, path):
    table = on_ray(path, data=inputs.Struck(tmp_path, inputs.kill))
    certify(tmp_path / "b.run", data=images(60))
    assert rows_of(path) == rows_of(tmp_path / "b.run")
    replaced, again = sorted(table.warnings)
    assert replaced.startswith("Replaced: worker ")
    assert re.match(r"Tried again: \d+ images from \d+ to \d+, which failed \(worker ", again)


def test_a_shard_that_fails_three_times_is_given_up_and_a_resume_tries_it_again(
    cluster, tmp_path, path
):
    data = inputs.Struck(tmp_path, inputs.kill, times=3)
    table = on_ray(path, data=data, workers=1)
    given_up, *others = sorted(table.warnings)
    found = re.match(r"Given up after 3 attempts: \d+ images from (\d+) to (\d+) \(", given_up)
    missing = range(int(found[1]), int(found[2]) + 1)
    assert 45 in missing
    assert {*range(60)} - {*table.image_id.tolist()} == {*missing}
    assert table.missing == len(missing)
    assert [text[:8] for text in others] == ["Replaced"] * 3 + ["Tried ag"] * 2
    assert on_ray(path, data=data, resume=True, workers=1).missing == 0


def test_a_straggler_is_cast_again_elsewhere(cluster, tmp_path, path, monkeypatch):
    monkeypatch.setattr("tcertify.cluster.pool.STRAGGLER_SECONDS", 1.0)
    table = on_ray(path, data=inputs.Struck(tmp_path, inputs.sleep))
    certify(tmp_path / "b.run", data=images(60))
    assert rows_of(path) == rows_of(tmp_path / "b.run")
    assert table.warnings[0].startswith("Cast again elsewhere: ")


def test_a_node_that_leaves_takes_no_row_with_it(cluster, tmp_path, path):
    leaving = cluster.add_node(num_cpus=1)
    seen = []

    def leave(done, planned):
        if not seen:
            seen.append(done)
            cluster.remove_node(leaving, allow_graceful=False)

    try:
        table = on_ray(
            path,
            SlowNetwork(),
            images(60),
            workers=3,
            n=2000,
            batch_size=64,
            on_progress=leave,
        )
    finally:
        if not seen:
            cluster.remove_node(leaving)
    certify(tmp_path / "b.run", data=images(60), n=2000, batch_size=64)
    assert seen[0] < 60
    assert rows_of(path) == rows_of(tmp_path / "b.run")
    assert any(text.startswith("Replaced: worker ") for text in table.warnings)


def slowly(path, address):
    """A run in a process of its own, to be killed."""
    code = f"""
from tcertify.cluster import Ray
from tests.tiny import SlowNetwork, certify, images
certify({str(path)!r}, SlowNetwork(), images(60), n=200, batch_size=64, cluster=Ray({address!r}, 1))
"""
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)


def test_a_driver_that_is_killed_is_continued_by_a_resume(cluster, tmp_path, path):
    process = slowly(path, cluster.address)
    try:
        while process.poll() is None and not (path.exists() and rows_of(path)):
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = len(rows_of(path))
    assert 0 < done < 60
    options = {"n": 200, "batch_size": 64}
    table = on_ray(path, SlowNetwork(), images(60), resume=True, workers=1, **options)
    certify(tmp_path / "b.run", data=images(60), **options)
    assert rows_of(path) == rows_of(tmp_path / "b.run")
    assert any("ended without closing the file" in text for text in table.warnings)


def test_a_full_disk_at_the_driver_ends_the_run_with_one_sentence(cluster, path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(done, planned):
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))

    try:
        with pytest.raises(RunFileError, match=r"Cannot write `.*What was committed is whole"):
            on_ray(path, data=images(60), on_progress=fill, workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(on_ray(path, data=images(60), resume=True, workers=1)) == 60


def test_a_worker_with_another_model_data_or_version_is_refused_with_both_values(
    cluster, path, monkeypatch
):
    def refused(load=None):
        with pytest.raises(RunError) as caught:
            on_ray(path, Network(), load=load, workers=1)
        return str(caught.value)

    both = r"Worker 1 \(pid \d+ on .*\) was refused: `{}` is '{}' there and '{}' at the driver"
    assert re.match(both.format("model", r"\w{64}", r"\w{64}"), refused(inputs.other_model))
    assert "cannot begin: FileNotFoundError" in (lost := refused(inputs.missing_data))
    assert "/data/only/at/the/driver.npz" in lost
    here = {"tcertify": "9.9", "torch": "2.0", "python": "3.11"}
    monkeypatch.setattr("tcertify.cluster.ray._versions", lambda: here)
    assert re.match(both.format("python", ".*", "3.11"), refused())
    assert not path.exists()


def test_what_ends_a_run_in_one_process_ends_it_on_a_cluster(cluster, path):
    data = images()
    with pytest.raises(VoidCertificateError, match="gives other logits when it is run again"):
        on_ray(path, faulty.rolls_dice(), data, workers=1)
    with pytest.raises(StoppedError, match=r"3 images in a row failed, image [678] with Lookup"):
        on_ray(path, FailsOn([6, 7, 8], data), data, sigma=1e-6, workers=1)
    assert set(rows_of(path)) <= {*range(6), 9, 10, 11}


def test_more_workers_than_there_is_room_for_are_refused(cluster, path):
    with pytest.raises(ValueError, match=r"`workers` must be at most 2, .* of 2 cores and 0 GPUs"):
        on_ray(path, workers=3)
    with pytest.raises(ValueError, match=r"`workers` must be at most 0"):
        certify(path, cluster=Ray(gpus=1))


@pytest.mark.parametrize(
    "wrong", [{"workers": 0}, {"cpus": 0}, {"cpus": float("nan")}, {"gpus": -1}]
)
def test_wrong_arguments_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}`"):
        Ray(**wrong)


def test_what_cannot_be_pickled_is_refused(cluster, path):
    model = functools.partial(lambda lock, batch: batch.flatten(1)[:, :3], threading.Lock())
    with pytest.raises(ValueError, match=r"`model` and `dataset` cannot be pickled"):
        on_ray(path, model)


def test_the_command_line_runs_on_a_cluster_and_says_what_is_missing(cluster, tmp_path):
    from click.testing import CliRunner

    from tcertify.cli.main import main

    def run(*arguments):
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    given = "predict", "tests.tiny:images", "tests.tiny:Network", 0.5
    few = "--N", 500, "--seed", 3
    plain = run(*given, tmp_path / "a.tsv", *few, "--json")
    found = run(*given, tmp_path / "b.tsv", *few, "--workers", 1, "--json", "--ray")
    assert found.exit_code == 0, found.output
    answers = [json.loads(result.stdout) for result in (plain, found)]
    for answer in answers:
        del answer["log"], answer["run"], answer["name"]
    assert answers[0] == answers[1]
    assert rows_of(tmp_path / "a.tsv.run") == rows_of(tmp_path / "b.tsv.run")
    for wrong, said in [
        (("--workers", 2), "need --ray"),
        (("--ray=auto", "--device", "cpu"), "--device is for one machine"),
        (("--ray=here",), "it takes HOST:PORT or auto, got 'here'"),
        (("--workers", 3, "--ray"), "--workers must be at most 2"),
    ]:
        refused = run(*given, tmp_path / "c.tsv", *few, *wrong)
        assert refused.exit_code in (1, 2)
        assert said in refused.output
