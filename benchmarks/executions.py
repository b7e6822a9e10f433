"""The engine as it runs by itself, with BatchNorm folded, and as `--execution fastest` has it.

    python -m benchmarks.executions --out benchmarks/results/executions.json    # 6 minutes
    python -m benchmarks.executions --page benchmarks/results/executions.json    # the table

For each network and number of threads, samples per second of the engine by the processor's clock
(all threads together) and by the wall's, medians, of

- `default`: float32, contiguous;
- `folded`: the same with BatchNorm folded into convolutions;
- `fastest`: what `tcertify.sampling.tune` finds fastest, there and then.

Each is a process of its own, as `benchmarks.equal_n` has it, on the same images, noise and weights.
Votes of the first two are compared before anything is said. How many votes differ from those of
the default is counted sample by sample by `tune`, on one image and up to 1,000 samples, fewer where
these would take more than 10 seconds. The bias of the last layer is shifted until all classes have
the same mean logit there: else all votes would be for one class, and what rounding moves would not
show.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import markdown
from benchmarks.equal_n import (
    SIGMA,
    Network,
    carry_out,
    engine,
    images,
    in_a_process,
    measured_by,
    parser_for,
)
from tcertify.classifiers import Execution
from tcertify.sampling import Trial, tune

NETWORKS = ("cifar-resnet20", "efficientnet-lite0", "resnet50")


def undecided(network: Network) -> Network:
    """The network with its last bias shifted so that no class is ahead on the first image."""
    module, x = network.make().eval(), images(network)[0]
    noise = torch.randn(32, *x.shape, generator=torch.Generator().manual_seed(2))
    *_, last = (layer for layer in module.modules() if isinstance(layer, nn.Linear))
    with torch.no_grad():
        last.bias -= module(x + SIGMA * noise).mean(0)
    return network._replace(make=lambda: module)


def default(network: Network) -> dict[str, Any]:
    """The engine as it runs by itself."""
    return told(network, Trial(Execution("float32")))


def folded(network: Network) -> dict[str, Any]:
    """The same with BatchNorm folded."""
    return told(network, Trial(Execution("float32", fold=True)))


def fastest(network: Network) -> dict[str, Any]:
    """What is fastest, and every execution that was tried for it."""
    tuning = tune(network.make(), network.classes, SIGMA, images(network)[0])
    trials = [{"name": trial.name, **trial.record()} for trial in tuning.trials]
    return {**told(network, tuning.fastest), "trials": trials}


ROLES = {"default": default, "folded": folded, "fastest": fastest}


def told(network: Network, trial: Trial) -> dict[str, Any]:
    """The engine's time and votes under an execution, at the rows of its trial if it has any."""
    found = engine(network, trial.execution, trial.rows or None)
    rates = {clock: 1e3 / found[f"{clock}_milliseconds"] for clock in ("cpu", "wall")}
    return {"execution": trial.name, "samples_per_second": rates, **found}


def check(ours: list[list[int]], expected: list[list[int]]) -> None:
    """Assert that the same votes were cast, but for the one in 100 that rounding may move."""
    counts, votes = np.array(ours), np.array(expected)
    assert (counts.sum(1) == votes.sum(1)).all()
    moved = abs(counts - votes).sum(1) // 2
    assert (moved <= np.maximum(1, votes.sum(1) // 100)).all(), (counts, votes)


def compared(name: str, threads: int) -> dict[str, Any]:
    """The three, after votes have been compared, with how many differ from the default's."""
    found = {role: in_a_process("executions", name, threads, role) for role in ROLES}
    votes = {role: found[role].pop("votes") for role in ROLES}
    check(votes["folded"], votes["default"])
    trials = {trial["name"]: trial for trial in found["fastest"]["trials"]}
    for of in found.values():
        of |= {word: trials[of["execution"]][word] for word in ("moved", "votes")}
    return {"network": name, "threads": threads, **found}


def page(report: dict[str, Any]) -> str:
    """The table of docs/performance.md, and what it was measured by."""
    head = (
        *("network", "threads", "execution", "rows"),
        *("samples / s, processor", "wall", "votes that differ"),
    )
    body = [
        [
            *(found["network"], str(found["threads"])),
            found[role]["execution"] + (", the fastest" if role == "fastest" else ""),
            str(found[role]["batch_size"]),
            *(f"{found[role]['samples_per_second'][clock]:.4g}" for clock in ("cpu", "wall")),
            f"{found[role]['moved']} of {found[role]['votes']}",
        ]
        for found in report["results"]
        for role in ROLES
    ]
    return f"{measured_by(report)}\n\n{markdown(head, body)}"


def main() -> None:
    """Measure, check and print."""
    chosen = parser_for(__doc__, ROLES, NETWORKS).parse_args()
    carry_out(
        "executions",
        chosen,
        lambda network: ROLES[chosen.role](undecided(network)),
        compared,
        page,
    )


if __name__ == "__main__":
    main()
