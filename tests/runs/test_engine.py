"""The engine: rows that depend on nothing but the parameters, whatever happens on the way."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from tcertify import SmoothedClassifier, predict_counts
from tcertify.classifiers import Classifier, Execution
from tcertify.errors import StoppedError, VoidCertificateError
from tcertify.runs import engine, predict_dataset, verify_run
from tcertify.runs.file import RunFile
from tcertify.sampling import Trial, Tuning
from tests.runs.models import (
    Dead,
    Dice,
    Drawing,
    FailsOn,
    Memory,
    NeighbourNetwork,
    Overwriting,
)
from tests.tiny import CLASSES, Network, certify, images, rows_of


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.run"


@pytest.mark.parametrize("method", ["certify", "t-certify", "joint"])
def test_each_row_is_what_the_smoothed_classifier_certifies_for_that_image(path, method):
    data, model = images(), Network()
    certify(path, model, data, method=method, seed=5)
    smoothed = SmoothedClassifier(model, CLASSES, 0.5, seed=5)
    for image_id, row in rows_of(path).items():
        alone = smoothed.certify(data[image_id][0], n0=20, n=500, method=method, image_id=image_id)
        assert row.predicted == alone.predicted
        assert row.radius == alone.radius
        assert (row.p_a_lower, row.p_b_upper) == (alone.p_a_lower, alone.p_b_upper)
        votes = row.looks
        assert votes[0].tolist() == [*alone.counts.tolist(), alone.invalid]


def test_the_table_holds_every_image_once_in_order(path):
    data = images()
    table = certify(path, data=data, indices=[7, 2, 11])
    assert table.image_id.tolist() == [2, 7, 11]
    assert table.label.tolist() == [int(data.labels[i]) for i in (2, 7, 11)]
    assert table.n.tolist() == [500] * 3
    assert table.missing == 0
    assert table.seconds.sum() > 0
    assert table.parameters["sigma"] == 0.5
    assert table.environment["threads"] == torch.get_num_threads()


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_rows_do_not_depend_on_the_batch_size_or_the_global_seed(tmp_path, batch_size):
    model = Network()
    torch.manual_seed(batch_size)
    before = torch.get_rng_state()
    certify(tmp_path / "a.run", model, batch_size=batch_size)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(0)
    certify(tmp_path / "b.run", indices=reversed(range(12)))
    assert rows_of(tmp_path / "a.run") == rows_of(tmp_path / "b.run")


def test_an_interrupted_run_is_resumed_to_the_rows_of_an_uninterrupted_one(tmp_path):
    certify(tmp_path / "whole.run", radii=(0.0, 0.25, 0.5), batch_size=8)

    def interrupt(done, planned):
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        certify(tmp_path / "a.run", radii=(0.0, 0.25, 0.5), batch_size=8, on_progress=interrupt)
    kept = rows_of(tmp_path / "a.run")
    assert 4 <= len(kept) < 12
    table = certify(tmp_path / "a.run", radii=(0.0, 0.25, 0.5), batch_size=8, resume=True)
    assert table.missing == 0
    assert rows_of(tmp_path / "a.run") == rows_of(tmp_path / "whole.run")


def test_more_images_can_be_added_to_a_run(tmp_path):
    certify(tmp_path / "a.run", indices=range(3))
    certify(tmp_path / "a.run", resume=True)
    certify(tmp_path / "b.run")
    assert rows_of(tmp_path / "a.run") == rows_of(tmp_path / "b.run")


class Untouched(nn.Module):
    def forward(self, batch):
        raise AssertionError("sampled before the arguments were checked")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(({"sigma": value}, "`sigma` must be") for value in (0, -1, np.nan, np.inf, "0.5")),
        *(({"alpha": value}, "`alpha` must be") for value in (0, 1, -0.1, 1.5, np.nan)),
        *(({"n": value}, "`n` must be") for value in (0, -1, 1.5, True)),
        *(({"n0": value}, "`n0` must be") for value in (0, -1, 1.5, True)),
        ({"n": 9}, "n = 9 samples can never certify anything at alpha = 0.001, .* n is 10"),
        ({"seed": -1}, "`seed` must be at least 0"),
        ({"seed": 2**63}, "`seed` must be at most"),
        ({"method": "best"}, "`method` must be one of"),
        ({"radii": [-1.0]}, "`radii` must be"),
        ({"radii": []}, "`radii` must"),
        ({"indices": [0, 12]}, "`indices` must be at most 11"),
        ({"indices": [0, 0]}, "each once"),
        ({"indices": []}, "at least one image"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"allow": ["everything"]}, "`allow` must hold codes"),
        ({"num_classes": 1}, "`num_classes` must be at least 2"),
    ],
)
def test_bad_arguments_end_before_any_sampling_and_leave_no_file(path, arguments, message):
    with pytest.raises(ValueError, match=message):
        certify(path, Untouched(), **arguments)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("n", [10, 11, 100])
@pytest.mark.parametrize("method", ["certify", "t-certify", "joint"])
def test_the_smallest_useful_n_is_accepted(path, n, method):
    assert certify(path, n=n, method=method, indices=[0]).n.tolist() == [n]


def test_a_first_image_with_nan_does_not_keep_the_classifier_from_being_checked(path):
    data = [(torch.full((1, 2, 2), torch.nan), 0), *map(images().__getitem__, range(3))]
    with pytest.raises(VoidCertificateError, match="other rows"):
        certify(path, NeighbourNetwork(), data=data, num_classes=CLASSES)


@pytest.mark.parametrize(
    ("model", "code", "message"),
    [
        (Dice, "random", "gives other logits when it is run again"),
        (NeighbourNetwork, "rows", "depend on the other rows of its batch"),
        (Memory, "state", "changes its parameters or buffers"),
    ],
)
def test_a_classifier_that_makes_certificates_void_is_refused_unless_allowed(
    path, model, code, message
):
    with pytest.raises(VoidCertificateError, match=f'{message}.*allow=\\["{code}"\\]'):
        certify(path, model())
    assert list(path.parent.iterdir()) == []
    # dice also make rows differ in other batches
    table = certify(path, model(), allow=[code, "rows"])
    assert any(message in text for text in table.warnings)
    assert code in table.parameters["allow"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Drawing, "draws from a global random generator"),
        (Overwriting, "changes its input in place"),
        (Dead, "a dead network"),
    ],
)
def test_a_classifier_that_is_merely_odd_gets_a_warning_with_the_run(path, model, message):
    table = certify(path, model())
    assert any(message in text for text in table.warnings)


def test_train_mode_is_noted_left_for_the_run_and_restored(path):
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, CLASSES))
    model[1].eval()
    table = certify(path, model)
    assert [module.training for module in model] == [True, False, True, True]
    assert any("was in train mode" in text for text in table.warnings)
    assert int(model[2].num_batches_tracked) == 0


def test_train_mode_is_restored_after_an_exception(path):
    model = FailsOn(range(12), images()).train()
    with pytest.raises(StoppedError, match="LookupError: no answer"):
        certify(path, model, sigma=1e-6)
    assert model.training
    assert model.linear.training


@pytest.mark.parametrize(
    ("logits", "error"),
    [
        (lambda y: y[:, :2], r"got \(\d+, 2\)"),
        (lambda y: y.argmax(1), "got"),
        (lambda y: y.long(), "int64"),
        (lambda y: y.to(torch.complex64), "complex64"),
        (lambda y: y.sum(), "got"),
        (lambda y: (y, y), "tuple"),
        (lambda y: {"logits": y}, "dict"),
        (lambda y: y[:-1], "got"),
    ],
)
def test_logits_of_another_kind_are_an_error_that_names_shape_and_expectation(path, logits, error):
    class Other(Network):
        def forward(self, batch):
            return logits(super().forward(batch))

    with pytest.raises(StoppedError, match=f"must return float logits of shape.*{error}"):
        certify(path, Other())
    assert list(path.parent.iterdir()) == []


def test_predictions_are_those_of_the_votes_and_certify_no_radius(path):
    table = predict_dataset(Network(), images(), sigma=0.5, out=path, n=300)
    assert table.parameters["method"] == "predict"
    for image_id, row in rows_of(path).items():
        votes = row.looks[0]
        assert row.predicted == predict_counts(votes[:-1], 0.001) == table.predicted[image_id]
        assert (row.radius, row.p_a_lower, row.p_b_upper) == (0, 0, 1)
        assert (row.top, row.selection.sum()) == (-1, 0)
    assert (table.predicted == table.label).mean() > 0.5


def test_a_plain_function_is_certified_with_a_warning(path):
    table = certify(path, lambda batch: batch.flatten(1)[:, :CLASSES])
    assert any("is no torch module" in text for text in table.warnings)
    assert (table.predicted == table.label).mean() > 0.5


def test_other_random_generators_are_left_alone(path):
    random.seed(0)
    before = random.getstate()
    certify(path)
    assert random.getstate() == before


def test_an_image_on_which_the_classifier_raises_does_not_keep_a_run_from_beginning(path):
    data = images()
    table = certify(path, FailsOn([0], data), data, sigma=1e-6)
    assert table.errors == {0: "LookupError: no answer"}


def test_a_classifier_is_checked_on_the_first_image_that_it_answers(path):
    class Both(FailsOn):
        def forward(self, batch):
            return super().forward(batch) + torch.rand(())

    data = images()
    with pytest.raises(VoidCertificateError, match="run again"):
        certify(path, Both([0], data), data, sigma=1e-6)


@pytest.mark.parametrize("form", ["tensors", "arrays", "torch", "pairs"])
def test_what_python_calls_a_data_set_gives_the_same_rows_and_can_be_replayed(tmp_path, form):
    known = images()
    given = {
        "tensors": (known.images, known.labels),
        "arrays": (known.images.numpy(), known.labels.numpy()),
        "torch": torch.utils.data.TensorDataset(known.images, known.labels),
        "pairs": [known[i] for i in range(len(known))],
    }[form]
    path = tmp_path / "a.run"
    certify(path, data=given, num_classes=CLASSES)
    certify(tmp_path / "known.run")
    assert rows_of(path) == rows_of(tmp_path / "known.run")
    report = verify_run(path, replay=2, model=Network(), dataset=given)
    assert (report.findings, report.moved) == ((), 0)


def test_a_loader_is_refused_with_the_reason(tmp_path):
    loader = torch.utils.data.DataLoader([images()[0]])
    with pytest.raises(TypeError, match=r"find an image by its number.*pass its `dataset`"):
        certify(tmp_path / "a.run", data=loader, num_classes=CLASSES)


@pytest.fixture
def tuned(monkeypatch):
    """A tuning that finds bfloat16 at 3 rows fastest; each is noted."""
    calls = []

    def tune(model, classes, sigma, x, **options):
        calls.append((classes, sigma, x.shape, options))
        best = Trial(Execution("bfloat16", channels_last=True), rows=3, rate=2.0, votes=1)
        return Tuning((Trial(Execution("float32"), rows=8, rate=1.0, votes=1), best))

    monkeypatch.setattr(engine, "tune", tune)
    return calls


def test_the_fastest_execution_is_recorded_kept_by_a_resume_and_used_by_a_replay(tmp_path, tuned):
    seen, path = [], tmp_path / "a.run"

    class Seeing(Network):
        def forward(self, batch):
            seen.append((len(batch), batch.dtype))
            return super().forward(batch)

    told = []
    table = certify(path, Seeing(), execution="fastest", indices=range(6), on_tuned=told.append)
    assert tuned == [(CLASSES, 0.5, (1, 2, 2), {"device": None, "batch_size": None})]
    assert told[0].fastest.rows == 3
    assert table.environment["batch_size"] == 3
    assert (3, torch.bfloat16) in seen
    certify(path, Seeing(), execution="fastest", resume=True)
    assert len(tuned) == 1
    explicit = Execution("bfloat16", channels_last=True)
    certify(tmp_path / "b.run", execution=explicit)
    assert rows_of(path) == rows_of(tmp_path / "b.run")
    seen.clear()
    assert verify_run(path, replay=12, model=Seeing(), dataset=images()).findings == ()
    assert {rows for rows, dtype in seen if dtype == torch.bfloat16} >= {3}
    with RunFile(path) as run:
        assert run.parameters["dtype"] == "bfloat16"
        assert run.parameters["channels_last"] is True


def test_an_overwrite_tunes_again(tmp_path, tuned):
    for _ in range(2):
        certify(tmp_path / "a.run", execution="fastest", overwrite=True)
    assert len(tuned) == 2


def test_the_fastest_execution_is_found_for_a_model_on_an_image(tmp_path, tuned):
    with pytest.raises(ValueError, match='`execution` "fastest" needs the model itself'):
        certify(tmp_path / "a.run", Classifier(Network(), CLASSES), execution="fastest")
    void = torch.full((3, 1, 2, 2), torch.nan), torch.arange(3)
    with pytest.raises(StoppedError, match='`execution` "fastest" found no whole image'):
        certify(tmp_path / "a.run", data=void, num_classes=CLASSES, execution="fastest")
    with pytest.raises(TypeError, match="`execution` must be an Execution, got 'fast'"):
        certify(tmp_path / "a.run", execution="fast")
    assert tuned == []


def test_shards_and_workers_do_not_tune_each_for_itself(tmp_path, tuned):
    for where in ({"shard": (1, 2)}, {"cluster": object()}):
        with pytest.raises(ValueError, match="would find another one in each place"):
            certify(tmp_path / "a.run", execution="fastest", seed=3, **where)
    assert tuned == []
