"""The engine: rows that depend on nothing but the parameters, whatever happens on the way."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from tcertify import SmoothedClassifier, predict_counts
from tcertify.data.dataset import TensorDataset
from tcertify.errors import RunFileError, StoppedError, VoidCertificateError
from tcertify.runs.engine import certify_dataset, predict_dataset
from tcertify.runs.file import RunFile, decode_votes
from tcertify.statistics.stopping import Schedule
from tests.tiny import CLASSES, Network, images

RADII = (0.0, 0.25, 0.5)


def certify(path, model=None, data=None, **options):
    arguments = {"sigma": 0.5, "n0": 20, "n": 500, "method": "certify"} | options
    return certify_dataset(
        Network() if model is None else model,
        images() if data is None else data,
        out=path,
        **arguments,
    )


def rows_of(path):
    """Every row without its time."""
    with RunFile(path) as run:
        rows = {
            row.idx: {**{n: getattr(row, n) for n in row.__slots__}, "seconds": 0}
            for row in run.rows()
        }
        assert run.structure() == run.damage == []
    return rows


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.run"


@pytest.mark.parametrize("method", ["certify", "t-certify", "joint"])
def test_each_row_is_what_the_smoothed_classifier_certifies_for_that_image(path, method):
    data, model = images(), Network()
    certify(path, model, data, method=method, seed=5)
    smoothed = SmoothedClassifier(model, CLASSES, 0.5, seed=5)
    for idx, row in rows_of(path).items():
        alone = smoothed.certify(data[idx][0], n0=20, n=500, method=method, image_id=idx)
        assert row["predicted"] == alone.predicted
        assert row["radius"] == alone.radius
        assert (row["p_a_lower"], row["p_b_upper"]) == (alone.p_a_lower, alone.p_b_upper)
        votes = decode_votes(row["estimation"], CLASSES)
        assert votes[0].tolist() == [*alone.counts.tolist(), alone.invalid]


def test_the_table_holds_every_image_once_in_order(path):
    data = images()
    table = certify(path, data=data, indices=[7, 2, 11])
    assert table.idx.tolist() == [2, 7, 11]
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


def test_an_image_in_many_rounds_gets_the_same_votes_as_in_one(tmp_path):
    """Rounds hold 16 batches: with batches of 4, one image fills several."""
    certify(tmp_path / "a.run", batch_size=4)
    certify(tmp_path / "b.run")
    assert rows_of(tmp_path / "a.run") == rows_of(tmp_path / "b.run")


@pytest.mark.parametrize("method", ["certify", "joint"])
def test_early_stopping_gives_the_table_of_the_full_run_for_fewer_samples(tmp_path, method):
    data = images(30)
    full = certify(tmp_path / "full.run", data=data, n=5000, method=method)
    early = certify(tmp_path / "early.run", data=data, n=5000, method=method, radii=RADII)
    for radius in RADII:
        certified = [
            (t.predicted == t.label) & (t.radius >= radius) & (t.radius > 0) for t in (full, early)
        ]
        assert abs(int(certified[0].sum()) - int(certified[1].sum())) <= 1
    assert early.n.mean() < full.n.mean() / 2
    schedule = Schedule.geometric(5000, 0.001, first=100)
    assert set(early.n.tolist()) <= set(schedule.looks)
    for row in rows_of(tmp_path / "early.run").values():
        looks = decode_votes(row["estimation"], CLASSES)
        assert looks.sum(1).tolist() == [*schedule.looks[: len(looks)]]


def test_with_radii_an_image_ends_at_its_first_look_where_the_selected_class_is_wrong(tmp_path):
    pixels = images(6).images
    looks = Schedule.geometric(5000, 0.001, first=100).looks
    certify(tmp_path / "any.run", data=images(6), n=5000)
    votes = [
        decode_votes(row["selection"], CLASSES)[0] for row in rows_of(tmp_path / "any.run").values()
    ]
    selected = torch.tensor([int(vote[:-1].argmax()) for vote in votes])
    ended, going_on = (
        certify(
            tmp_path / f"{shift}.run",
            data=TensorDataset("tiny", CLASSES, pixels, (selected + shift) % CLASSES),
            n=5000,
            radii=RADII,
        )
        for shift in (1, 0)
    )
    assert ended.n.tolist() == [looks[0]] * 6
    assert (going_on.n > looks[0]).any()


def test_an_interrupted_run_is_resumed_to_the_rows_of_an_uninterrupted_one(tmp_path):
    certify(tmp_path / "whole.run", radii=RADII, batch_size=8)

    def interrupt(done, planned):
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        certify(tmp_path / "a.run", radii=RADII, batch_size=8, on_progress=interrupt)
    kept = rows_of(tmp_path / "a.run")
    assert 4 <= len(kept) < 12
    table = certify(tmp_path / "a.run", radii=RADII, batch_size=8, resume=True)
    assert table.missing == 0
    assert rows_of(tmp_path / "a.run") == rows_of(tmp_path / "whole.run")


def test_more_images_can_be_added_to_a_run(tmp_path):
    certify(tmp_path / "a.run", indices=range(3))
    certify(tmp_path / "a.run", resume=True)
    certify(tmp_path / "b.run")
    assert rows_of(tmp_path / "a.run") == rows_of(tmp_path / "b.run")


def other_network():
    model = Network()
    model.linear.bias.data[0] += 0.01
    return model


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"sigma": 0.25}, "sigma"),
        ({"n": 600}, "looks"),
        ({"n0": 30}, "n0"),
        ({"alpha": 0.01}, "alpha"),
        ({"seed": 1}, "seed"),
        ({"method": "joint"}, "method"),
        ({"radii": RADII}, "radii"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"channels_last": True}, "channels_last"),
        ({"tf32": True}, "tf32"),
        ({"model": other_network()}, "model"),
        ({"data": images(13)}, "data"),
    ],
)
def test_a_resume_that_differs_is_refused_and_named(path, change, name):
    certify(path, indices=range(2))
    before = rows_of(path)
    with pytest.raises(RunFileError, match=f"`{name}` is .* there and .* here"):
        certify(path, resume=True, **change)
    assert rows_of(path) == before


def test_a_data_set_without_a_fingerprint_is_told_by_its_images(path):
    items = [(image.numpy(), int(label)) for image, label in map(images().__getitem__, range(4))]
    certify(path, data=items, num_classes=CLASSES)
    certify(path, data=items, num_classes=CLASSES, resume=True)
    items[3][0][0, 0, 0] += 0.01
    with pytest.raises(RunFileError, match="`data` is"):
        certify(path, data=items, num_classes=CLASSES, resume=True)


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
        ({"dtype": "float64"}, "`dtype` must be one of"),
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


def with_image(image, at=2):
    items = [[i, int(label)] for i, label in map(images().__getitem__, range(4))]
    items[at][0] = image
    return [tuple(item) for item in items]


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (torch.zeros(1, 2, 2, dtype=torch.uint8), TypeError, "must be floats in"),
        (torch.zeros(1, 2, 2, dtype=torch.complex64), TypeError, "must be floats in"),
        ([[0.5]], TypeError, "must be a tensor or an array, got list"),
        (torch.tensor(0.5), ValueError, "must be one image"),
        (torch.zeros(4, 1, 2, 2), ValueError, "must be one image"),
        (torch.zeros(1, 2, 3), ValueError, "the first"),
        (torch.full((1, 2, 2), 0.1, dtype=torch.float64), ValueError, "more digits than float32"),
        (torch.full((1, 2, 2), 1.01), VoidCertificateError, r"outside \[0, 1\]"),
        (torch.full((1, 2, 2), -0.01), VoidCertificateError, r"outside \[0, 1\]"),
    ],
)
def test_an_image_that_is_not_what_it_should_be_is_an_error_that_names_it(
    path, image, error, message
):
    with pytest.raises(error, match=f"Image 2 .*{message}"):
        certify(path, data=with_image(image), num_classes=CLASSES)


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.double(),
        lambda x: x.permute(0, 2, 1).contiguous().permute(0, 2, 1),
        lambda x: x.numpy(),
    ],
)
def test_images_of_the_same_values_give_the_same_rows(tmp_path, convert):
    plain = [images()[i] for i in range(3)]
    certify(tmp_path / "a.run", data=plain, num_classes=CLASSES)
    converted = [(convert(image), label) for image, label in plain]
    certify(tmp_path / "b.run", data=converted, num_classes=CLASSES)
    assert rows_of(tmp_path / "a.run") == rows_of(tmp_path / "b.run")


def test_a_label_outside_the_classes_is_an_error(path):
    data = [(torch.zeros(1, 2, 2), 3)]
    with pytest.raises(ValueError, match="`label` must be at most 2, got 3"):
        certify(path, data=data, num_classes=CLASSES)


def test_an_image_with_nan_is_invalid_and_the_run_goes_on(path):
    data = with_image(torch.full((1, 2, 2), torch.nan))
    table = certify(path, data=data, num_classes=CLASSES)
    assert table.failed.tolist() == [False, False, True, False]
    assert (table.predicted[2], table.radius[2], table.n[2]) == (-1, 0, 0)
    assert rows_of(path)[2]["error"] == "its pixels are NaN or infinite"


def test_a_first_image_with_nan_does_not_keep_the_classifier_from_being_checked(path):
    data = with_image(torch.full((1, 2, 2), torch.nan), at=0)
    with pytest.raises(VoidCertificateError, match="other rows"):
        certify(path, NeighbourNetwork(), data=data, num_classes=CLASSES)


def test_nan_logits_are_invalid_votes_and_count_against_the_class(path):
    class Network1000(Network):
        def forward(self, batch):
            logits = super().forward(batch)
            logits[torch.arange(len(batch)) % 1000 == 999] = torch.nan
            return logits

    table = certify(path, Network1000(), n=4000, batch_size=1000, indices=[0], allow=["rows"])
    assert table.invalid.tolist() == [4]
    votes = decode_votes(rows_of(path)[0]["estimation"], CLASSES)[0]
    assert votes.sum() == 4000
    assert votes[-1] == 4


def test_an_all_nan_network_certifies_nothing(path):
    class Nowhere(Network):
        def forward(self, batch):
            return super().forward(batch) * torch.nan

    table = certify(path, Nowhere())
    assert (table.predicted == -1).all()
    assert (table.radius == 0).all()
    assert table.invalid.tolist() == [500] * 12


class FailsOn(Network):
    """Raises for the images whose first pixel is marked."""

    def __init__(self, marked, data):
        super().__init__()
        self.marked = {round(float(data.images[i].mean()), 3) for i in marked}

    def forward(self, batch):
        # noise is small in these tests, so the mean of a row tells its image
        for mean in batch.flatten(1).mean(1).tolist():
            if round(mean, 3) in self.marked:
                raise LookupError("no answer")
        return super().forward(batch)


def fails_on(marked, data, path, **options):
    return certify(path, FailsOn(marked, data), data, sigma=1e-6, **options)


def test_an_exception_for_one_image_makes_it_invalid_with_its_class(path):
    data = images()
    table = fails_on([4, 6, 7], data, path)
    assert np.flatnonzero(table.failed).tolist() == [4, 6, 7]
    assert rows_of(path)[4]["error"] == "LookupError: no answer"
    plain = certify(path.with_name("b.run"), data=data, sigma=1e-6)
    others = ~table.failed
    assert table.radius[others].tolist() == plain.radius[others].tolist()


def test_three_exceptions_in_a_row_stop_the_run_and_what_was_finished_stays(path):
    data = images()
    with pytest.raises(StoppedError, match="3 images in a row failed, image 8 with LookupError"):
        fails_on([6, 7, 8], data, path, batch_size=16)
    kept = rows_of(path)
    assert 0 < len(kept) <= 6
    assert all(row["error"] is None for row in kept.values())


def test_a_data_set_that_fails_for_one_image_makes_it_invalid(path):
    class Torn(list):
        def __getitem__(self, at):
            if at == 1:
                raise OSError("truncated file")
            return super().__getitem__(at)

    table = certify(path, data=Torn(with_image(torch.zeros(1, 2, 2))), num_classes=CLASSES)
    assert table.failed.tolist() == [False, True, False, False]
    assert rows_of(path)[1]["error"] == "OSError: truncated file"


def test_memory_that_runs_out_halves_the_batch_and_changes_no_row(tmp_path):
    class Tight(Network):
        def forward(self, batch):
            if len(batch) > 100:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(batch)

    table = certify(tmp_path / "a.run", Tight(), batch_size=1000)
    assert any("the batch size was halved to 62" in text for text in table.warnings)
    certify(tmp_path / "b.run")
    assert rows_of(tmp_path / "a.run") == rows_of(tmp_path / "b.run")


class Dice(Network):
    def forward(self, batch):
        return nn.functional.dropout(super().forward(batch), 0.5, training=True)


class NeighbourNetwork(Network):
    def forward(self, batch):
        return super().forward(nn.functional.batch_norm(batch, None, None, training=True))


class Memory(Network):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, batch):
        self.calls += 1
        return super().forward(batch)


class Drawing(Network):
    def forward(self, batch):
        torch.rand(1)
        return super().forward(batch)


class Overwriting(Network):
    def forward(self, batch):
        return super().forward(batch.sub_(0.1))


class Dead(Network):
    def forward(self, batch):
        return super().forward(batch) * 0


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
    with pytest.raises(LookupError):
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

    with pytest.raises(ValueError, match=f"must return float logits of shape.*{error}"):
        certify(path, Other())
    assert list(path.parent.iterdir()) == []


def test_predictions_are_those_of_the_votes_and_certify_no_radius(path):
    table = predict_dataset(Network(), images(), sigma=0.5, out=path, n=300)
    assert table.parameters["method"] == "predict"
    for idx, row in rows_of(path).items():
        votes = decode_votes(row["estimation"], CLASSES)[0]
        assert row["predicted"] == predict_counts(votes[:-1], 0.001) == table.predicted[idx]
        assert (row["radius"], row["p_a_lower"], row["p_b_upper"]) == (0, 0, 1)
        assert row["selection"] == "[]"
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


def test_uint8_images_of_a_tensor_data_set_are_scaled_exactly(path):
    pixels = torch.randint(0, 256, (3, 1, 2, 2), dtype=torch.uint8)
    data = TensorDataset("bytes", CLASSES, pixels, torch.zeros(3, dtype=torch.int64))
    assert len(certify(path, data=data)) == 3
