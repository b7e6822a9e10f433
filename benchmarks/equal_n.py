"""The field's loop and the engine at equal n, timed in a fresh process as a user's script is one.

``python -m benchmarks.equal_n NETWORK [EXECUTION]`` prints one JSON object: processor seconds a
sample on one thread, medians, of the loop, of the engine, and of the loop once more. What ran
before decides how much freed memory the C library keeps, which the loop feels: its first times are
those of a script that does nothing else, its last those after the engine has raised that limit.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.implementations import ResidualNet, field_votes

SIGMA, IMAGES, PASSES = 0.5, 2, 5


def perceptron() -> nn.Module:
    """64-128-10, where the noise weighs most."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def digits() -> nn.Module:
    """The demo's network."""
    from tcertify.classifiers.networks import DigitsNet

    return DigitsNet()


#: Name: the network (random weights), the shape of an image, samples an image.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], int]] = {
    "perceptron": (perceptron, (1, 8, 8), 50_000),
    "digits": (digits, (1, 8, 8), 10_000),
    "residual": (ResidualNet, (3, 32, 32), 2000),
}
EXECUTIONS = {
    "float32": {},
    "float32, compiled": {"compile": True},
    "bfloat16, channels-last": {"dtype": "bfloat16", "channels_last": True},
}


def timed(work: Callable[[], NDArray[np.int64]]) -> tuple[NDArray[np.int64], float]:
    """The result, and the median of processor seconds after a first call."""
    result, found = work(), []
    for _ in range(PASSES):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return result, statistics.median(found)


def check(counts: NDArray[np.int64], expected: NDArray[np.int64], exact: bool) -> None:
    """Assert that both sampled the same classifier: votes within eight deviations."""
    n = expected.sum(1, keepdims=True)
    assert (counts.sum(1, keepdims=True) == n).all()
    spread = 8 * np.sqrt(2 * expected * (n - expected) / n + 1) + (0 if exact else 0.02 * n)
    assert (abs(counts[:, :-1] - expected) <= spread).all(), (counts, expected)


def main(name: str, execution: str = "float32") -> None:
    """Time, check and print."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    make, shape, n = NETWORKS[name]
    network, x = make().eval(), torch.rand(IMAGES, *shape)

    def loop() -> NDArray[np.int64]:
        return np.array([field_votes(network, image, SIGMA, n, 1000) for image in x])

    expected, first = timed(loop)

    from tcertify.classifiers import Classifier, Execution
    from tcertify.sampling import ESTIMATION, GaussianNoise, Sampler

    chosen = Execution(**EXECUTIONS[execution])  # type: ignore[arg-type]
    classifier = Classifier(network, 10, execution=chosen)
    sampler = Sampler(classifier, GaussianNoise(SIGMA))
    counts, ours = timed(lambda: sampler.count(x, range(IMAGES), 0, n, ESTIMATION))
    check(counts, expected, exact=classifier.execution.dtype == "float32")
    _, last = timed(loop)
    total = IMAGES * n
    result = {
        "network": name,
        "execution": execution,
        "samples": total,
        "batch_size": sampler.batch_size,
        "microseconds": {
            "loop": 1e6 * first / total,
            "ours": 1e6 * ours / total,
            "loop afterwards": 1e6 * last / total,
        },
        "ratio": first / ours,
        "ratio afterwards": last / ours,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
