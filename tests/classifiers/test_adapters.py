"""One linear classifier in every form casts the same votes under the same noise."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from tcertify.classifiers import Classifier, adapters
from tcertify.sampling import ESTIMATION, GaussianNoise, Sampler
from tests.classifiers.test_by_name import linear_onnx

CLASSES = 3


def scores(batch):
    return batch.reshape(len(batch), -1) @ WEIGHT


WEIGHT = (np.arange(12, dtype=np.float32).reshape(4, 3) % 5) / 7


class Returned(nn.Module):
    """Returns an object with logits, as Hugging Face's models do."""

    def forward(self, batch):
        return SimpleNamespace(logits=batch.flatten(1) @ torch.from_numpy(WEIGHT))


def fitted():
    estimator = LogisticRegression()
    estimator.classes_ = np.arange(CLASSES)
    estimator.coef_, estimator.intercept_ = WEIGHT.T, np.zeros(CLASSES, np.float32)
    return estimator


def of_jax():
    pytest.importorskip("jax", reason="JAX is not installed")
    return adapters.from_jax(scores, CLASSES)


FORMS = {
    "numpy": lambda: adapters.from_numpy(scores, CLASSES),
    "hard labels": lambda: adapters.from_numpy(lambda x: scores(x).argmax(1), CLASSES),
    "sklearn": lambda: adapters.from_sklearn(fitted()),
    "huggingface": lambda: adapters.from_huggingface(Returned()),
    "jax": of_jax,
}


def votes(base_classifier):
    images = torch.linspace(0, 1, 12).reshape(3, 1, 2, 2)
    sampler = Sampler(Classifier(base_classifier, CLASSES), GaussianNoise(0.5))
    return sampler.count(images, [0, 1, 2], 0, 300, ESTIMATION)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_casts_the_votes_of_the_torch_module(form):
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES, bias=False))
    module[1].weight = nn.Parameter(torch.from_numpy(WEIGHT.T.copy()))
    assert np.array_equal(votes(FORMS[form]()), votes(module))


def test_an_onnx_file_casts_the_votes_of_the_torch_module(tmp_path):
    weight = linear_onnx(tmp_path / "a.onnx")
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES, bias=False))
    module[1].weight = nn.Parameter(weight.T.clone())
    assert np.array_equal(votes(adapters.from_onnx(tmp_path / "a.onnx")), votes(module))


def test_two_classes_of_sklearn_have_one_column_that_is_positive_for_the_second():
    estimator = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    logits = adapters.from_sklearn(estimator)(torch.tensor([[-3.0], [4.0]]))
    assert logits.shape == (2, 2)
    assert logits.argmax(1).tolist() == [0, 1]


def test_an_estimator_without_scores_answers_by_its_probabilities():
    estimator = KNeighborsClassifier(1).fit([[0.0], [1.0], [2.0]], [0, 1, 2])
    assert adapters.from_sklearn(estimator)(torch.tensor([[1.9]])).argmax().item() == 2


def test_an_estimator_that_is_not_fitted_is_refused():
    with pytest.raises(ValueError, match="LogisticRegression is not fitted, or is no classifier"):
        adapters.from_sklearn(LogisticRegression())


def test_a_hard_label_outside_the_classes_is_refused():
    classifier = adapters.from_numpy(lambda x: np.full(len(x), 7), CLASSES)
    with pytest.raises(ValueError, match=r"answers class 7, outside \[0, 3\)"):
        classifier(torch.zeros(2, 4))


def test_other_estimators_and_files_have_other_fingerprints(tmp_path):
    first, second = fitted(), fitted()
    second.coef_ = second.coef_ + 1
    prints = [adapters.from_sklearn(e).fingerprint() for e in (first, fitted(), second)]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("content", [b"", b"<html>", bytes(100)])
def test_a_file_that_is_no_onnx_model_is_refused(tmp_path, content):
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.onnx \({len(content)} bytes\) cannot be run"):
        adapters.from_onnx(tmp_path / "a.onnx")


def test_a_missing_file_or_package_is_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"a\.onnx does not exist"):
        adapters.from_onnx(tmp_path / "a.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match="pip install onnxruntime"):
        adapters.from_onnx(tmp_path / "a.onnx")
