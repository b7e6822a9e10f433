"""A small program of a user's, as type checkers see it; the suite runs it too."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import tcertify
from adre_train import adre_risk


def main(folder: Path) -> float:
    """Certify votes, one image and a data set; read the run back, check it and draw it."""
    certificates = tcertify.certify_counts([[985, 10, 5]], [0], sigma=0.5)
    radius: float = float(certificates.radius[0])
    print(certificates.predicted, radius, tcertify.predict_counts([80, 20, 0], alpha=0.001))

    lower = tcertify.bounds.joint_lower(985, 10, 1000, 0.001)
    n = tcertify.statistics.samples_needed(0.9, 0.05, 0.5, sigma=0.5, method="certify")
    print(lower, n, tcertify.statistics.largest_radius(1000, 0.001, 0.5))

    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    x = torch.rand(1, 2, 2)
    smooth = tcertify.Smooth(network, 3, 0.5)
    answer, certified = smooth.certify(x, 20, 200, 0.001, 100)
    if answer == tcertify.Smooth.ABSTAIN:
        print("abstains", certified)
    certificate = tcertify.SmoothedClassifier(network, 3, 0.5, seed=1).certify(x, n0=20, n=200)
    print(certificate.predicted, certificate.radius, certificate.counts.sum())

    data = tcertify.data.from_arrays(np.zeros((4, 1, 2, 2), np.uint8), [0, 1, 2, 0])
    run = folder / "a.run"
    table: tcertify.RunTable = tcertify.certify_dataset(
        network,
        data,
        sigma=0.5,
        out=run,
        n0=20,
        n=200,
        execution=tcertify.Execution(dtype="float32"),
    )
    curve = tcertify.statistics.certified_accuracy(table.radius, table.correct, [0.0, 0.25])
    again = tcertify.recertify_run(run, method="certify", alpha=0.01)
    report = tcertify.verify_run(run)
    tcertify.export_run(again, folder / "a.tsv")
    log = tcertify.logs.read_log(folder / "a.tsv")
    print(curve.share, report.findings, log.radius, tcertify.read_run(run).missing)
    try:
        tcertify.predict_dataset(network, data, sigma=0.5, out=run, n=100)
    except tcertify.RunFileError as error:
        print(error)

    risk = adre_risk(torch.rand(2, 4, 3, requires_grad=True), torch.tensor([0, 1, 2, 0]), lam=0.3)
    risk.backward()  # type: ignore[no-untyped-call]
    return radius


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
