"""Fingerprints: the same for the same classifier in every process, another for another."""

import copy
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from tcertify.classifiers import Standardise
from tcertify.classifiers.fingerprint import fingerprint, identity


class Normalize(nn.Module):
    """Holds its constants as the field's layers do: as plain attributes."""

    def __init__(self, mean=0.5, **others):
        super().__init__()
        self.mean = mean
        vars(self).update(others)

    def forward(self, batch):
        return batch - self.mean


def network(*first, act=nn.ReLU):
    torch.manual_seed(0)
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(4, 4), act(), nn.Linear(4, 3))


def closure(net, scale=1.0):
    return lambda batch: scale * net(batch)


def leaky(slope):
    return network(act=lambda: nn.LeakyReLU(slope))


def hidden(act):
    """A network in a plain list, which torch does not register."""
    return network(Normalize(hidden=[network(act=act)]))


def table(a=0):
    return {"a": a, "b": [1, (2.0, "three")], "c": {1, 2}}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: network(), lambda: network(act=nn.GELU)),
        (lambda: leaky(0.1), lambda: leaky(0.2)),
        (lambda: network(Normalize(0.0)), lambda: network(Normalize(0.5))),
        (lambda: network(Normalize([0.1, 0.2])), lambda: network(Normalize([0.1, 0.3]))),
        (lambda: network(Normalize(torch.zeros(3))), lambda: network(Normalize(torch.ones(3)))),
        (lambda: network(Normalize(np.zeros(3))), lambda: network(Normalize(np.ones(3)))),
        (lambda: network(Normalize(table())), lambda: network(Normalize(table(1)))),
        (lambda: network(Standardise([0.5], [1.0])), lambda: network(Standardise([0.4], [1.0]))),
        (lambda: hidden(nn.ReLU), lambda: hidden(nn.Tanh)),
        (lambda: closure(network()), lambda: closure(network(), 2.0)),
        (lambda: closure(network()), lambda: closure(network(act=nn.GELU))),
        (lambda: lambda b, s=1: b * s, lambda: lambda b, s=2: b * s),
        (lambda: lambda b: b * 2, lambda: lambda b: b * 3),
        (lambda: lambda b: b.sin(), lambda: lambda b: b.cos()),
        (lambda: partial(torch.add, other=1), lambda: partial(torch.add, other=2)),
        (lambda: Normalize(0.0).forward, lambda: Normalize(0.5).forward),
    ],
)
def test_what_makes_another_function_makes_another_fingerprint(one, other):
    assert fingerprint(one()) == fingerprint(one())
    assert fingerprint(one()).all != fingerprint(other()).all


def test_parameters_and_buffers_are_the_state_and_the_rest_is_the_structure():
    here, there = network(Normalize(0.0)), network(Normalize(0.0))
    with torch.no_grad():
        there[2].weight[0, 0] += 1e-7
    assert fingerprint(here).state != fingerprint(there).state
    assert fingerprint(here).structure == fingerprint(there).structure
    there = network(Normalize(0.5))
    assert fingerprint(here).state == fingerprint(there).state
    assert fingerprint(here).structure != fingerprint(there).structure


def test_modes_and_copies_do_not_matter_and_hooks_do():
    here = network()
    assert fingerprint(here.eval()) == fingerprint(copy.deepcopy(here).train())
    here[0].register_forward_hook(lambda module, inputs, output: output * 2)
    assert fingerprint(here) != fingerprint(network())


def test_the_identity_stays_while_values_change_in_place_and_goes_with_the_tensors():
    here = network(Normalize(torch.zeros(4)))
    before = identity(here)
    with torch.no_grad():
        here[2].weight.mul_(2)
    here[0].mean += 1
    assert identity(here) == before
    here[2].weight.data = here[2].weight.data.clone()
    assert identity(here) != before
    assert identity(here) != identity(copy.deepcopy(here))


CODE = """
import numpy as np, torch
from torch import nn
from tcertify.classifiers.fingerprint import fingerprint
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Softplus())
net[0].sets = {"x", "yy", "zzz", "wwww"}, frozenset("abc")
net[0].others = {"k": object()}, np.arange(3), torch.float32, None, print
net[0].function = lambda b: [b in {"p", "q", "r"}, np.sum(b), net]
def f(batch, scale=torch.ones(2)):
    return net(batch) * scale
print(fingerprint(net).all, fingerprint(f).all)
"""


def test_every_process_finds_the_same():
    found = {
        subprocess.run(
            [sys.executable, "-c", CODE],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_odd_objects_are_looked_at_without_an_error():
    odd = Normalize()
    odd.sparse, odd.itself, odd.names = torch.eye(3).to_sparse(), odd, np.array([object()])
    odd.deep = []
    for _ in range(100):
        odd.deep = [odd.deep]
    odd.empty, odd.scalar, odd.half = torch.zeros(0), torch.tensor(1), torch.ones(2).bfloat16()
    assert fingerprint(odd) == fingerprint(odd)
    assert identity(odd) == identity(odd)
