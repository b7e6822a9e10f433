"""Default, folded and fastest execution of the engine: what docs/performance.md says of them."""

import json

import pytest
import torch
from torch import nn

from benchmarks import equal_n, executions
from tcertify.sampling import tuning


def tiny():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


@pytest.fixture
def quick(monkeypatch):
    """A tiny network, short measurements in this process, and a compiler that does nothing."""
    network = equal_n.Network(tiny, 3, (1, 4, 4), 1, 100, 50)
    monkeypatch.setitem(equal_n.NETWORKS, "tiny", network)
    monkeypatch.setattr(equal_n, "SECONDS", 0.0)
    monkeypatch.setattr(tuning, "_LADDER_SECONDS", 0.02)
    monkeypatch.setattr(torch, "compile", lambda module, **options: module)

    def in_a_process(module, name, threads, role):
        assert (module, threads) == ("executions", 1)
        torch.manual_seed(0)
        undecided = executions.undecided(equal_n.NETWORKS[name])
        return json.loads(json.dumps(executions.ROLES[role](undecided)))

    monkeypatch.setattr(executions, "in_a_process", in_a_process)


def test_the_three_are_compared_and_come_onto_the_page(quick, monkeypatch, tmp_path):
    out, document = tmp_path / "found.json", tmp_path / "page.md"
    for arguments in (["tiny", "--out", str(out)], ["--page", str(out)]):
        document.write_text("a\n<!-- of benchmarks.executions -->\nb\n<!-- end -->\nc\n")
        monkeypatch.setattr(equal_n, "PAGE", document)
        monkeypatch.setattr("sys.argv", ["executions", *arguments])
        executions.main()
    report = json.loads(out.read_text())
    assert report["command"] == f"python -m benchmarks.executions tiny --out {out}"
    assert {"commit", "date", "processor", "versions"} <= report.keys()
    (found,) = report["results"]
    assert (found["network"], found["threads"]) == ("tiny", 1)
    for role in executions.ROLES:
        assert found[role]["samples_per_second"].keys() == {"cpu", "wall"}
        assert 0 <= found[role]["moved"] <= found[role]["votes"]
    names = [trial["name"] for trial in found["fastest"]["trials"]]
    assert names[:2] == ["float32", "float32, folded"]
    assert [found[role]["execution"] for role in executions.ROLES][:2] == names[:2]
    assert found["fastest"]["execution"] in names
    assert found["fastest"]["batch_size"] in {t["rows"] for t in found["fastest"]["trials"]}
    before, table, after = document.read_text().split("<!-- ")
    assert (before, after) == ("a\n", "end -->\nc\n")
    lines = [line for line in table.splitlines() if line.startswith("| tiny | 1 | ")]
    assert len(lines) == 3
    assert lines[0].startswith("| tiny | 1 | float32 | ")
    assert lines[0].endswith(f" | 0 of {found['default']['votes']} |")


def test_no_class_is_ahead_of_an_undecided_network(quick):
    torch.manual_seed(0)
    network = executions.undecided(equal_n.NETWORKS["tiny"])
    (votes,) = executions.default(network)["votes"]
    assert min(votes) > 0


def test_votes_that_rounding_cannot_have_moved_are_found():
    executions.check([[500, 500], [999, 1]], [[509, 491], [1000, 0]])
    executions.check([[9, 1]], [[10, 0]])
    for counts in ([[489, 511]], [[500, 499]]):
        with pytest.raises(AssertionError):
            executions.check(counts, [[500, 500]])
