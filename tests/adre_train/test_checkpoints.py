import json

import pytest
import torch

from adre_train import checkpoints
from tests import faults


def write(folder, epoch):
    weights = {"fc.weight": torch.full((3, 2), float(epoch))}
    checkpoints.write(folder, (epoch, 0), weights, {"fc.weight": torch.ones(3, 2)}, {"note": epoch})


def test_what_is_written_is_read(tmp_path):
    write(tmp_path, 1)
    checkpoint = checkpoints.latest(tmp_path)
    assert checkpoint.path == checkpoints.weights_path(tmp_path, 1)
    assert torch.equal(checkpoint.weights["fc.weight"], torch.ones(3, 2))
    assert torch.equal(checkpoint.optimizer["fc.weight"], torch.ones(3, 2))
    assert checkpoint.record["note"] == 1
    assert checkpoint.record["epoch"] == 1


def test_a_run_without_momentum_keeps_an_empty_optimiser(tmp_path):
    checkpoints.write(tmp_path, (1, 0), {"w": torch.zeros(2)}, {}, {})
    assert checkpoints.latest(tmp_path).optimizer == {}


def test_an_empty_folder_holds_no_checkpoint(tmp_path):
    assert checkpoints.latest(tmp_path) is None


def test_the_last_two_checkpoints_are_kept(tmp_path):
    for epoch in (1, 2, 10, 11):
        write(tmp_path, epoch)
    names = {path.name for path in tmp_path.iterdir()}
    suffixes = (".json", ".safetensors", ".optimizer.safetensors")
    assert names == {f"epoch-{e:05d}{suffix}" for e in (10, 11) for suffix in suffixes}


def test_within_an_epoch_a_checkpoint_is_newer_than_the_epoch_s_and_older_than_the_next(tmp_path):
    for place in ((1, 0), (1, 20), (1, 100), (2, 0), (2, 7)):
        checkpoints.write(tmp_path, place, {"w": torch.zeros(2)}, {}, {})
        checkpoint = checkpoints.latest(tmp_path)
        assert (checkpoint.record["epoch"], checkpoint.record["step"]) == place
        assert checkpoint.path == checkpoints.weights_path(tmp_path, *place)


def test_the_best_epoch_s_checkpoint_is_kept_with_the_last_two(tmp_path):
    for epoch in range(1, 7):
        checkpoints.write(tmp_path, (epoch, 0), {"w": torch.zeros(2)}, {}, {}, best=min(epoch, 2))
    assert sorted(path.stem for path in tmp_path.glob("*.json")) == [
        "epoch-00002",
        "epoch-00005",
        "epoch-00006",
    ]


def test_files_of_other_names_are_passed_over(tmp_path):
    (tmp_path / "epoch-last.json").write_text("{}")
    assert checkpoints.latest(tmp_path) is None


DAMAGES = [
    (damage, suffix)
    for damage in ("truncated", "flipped", "gone")
    for suffix in (".json", ".safetensors", ".optimizer.safetensors")
    if (damage, suffix) != ("gone", ".json")  # without its record it was never complete
]


@pytest.mark.parametrize(("damage", "suffix"), DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, damage, suffix):
    write(tmp_path, 1)
    write(tmp_path, 2)
    path = tmp_path / f"epoch-00002{suffix}"
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[:-1])
    else:
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    with pytest.warns(RuntimeWarning, match=rf"epoch-00001.*later ones are damaged: .*{path.name}"):
        checkpoint = checkpoints.latest(tmp_path)
    assert checkpoint.record["note"] == 1


def test_when_every_checkpoint_is_damaged_each_is_named(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2)
    for path in tmp_path.glob("*.json"):
        path.write_text(json.dumps({"epoch": 1}))
    with pytest.raises(ValueError, match=r"is damaged: .*epoch-00002\.json.*epoch-00001\.json"):
        checkpoints.latest(tmp_path)


def disturb(folder):
    """Print at how many calls the writing of a checkpoint was disturbed, all ways together."""
    torch.set_num_threads(1)

    def write_fourth(n):
        write(folder, 4)

    def check(n, ended):
        checkpoint = checkpoints.latest(folder)
        written = ended in (faults.UNDISTURBED, faults.RECOVERED)
        assert checkpoint.record["note"] in ((4,) if written else (3, 4))
        assert (checkpoint.weights["fc.weight"] == checkpoint.record["note"]).all()
        write(folder, 4)  # what a resumed run does next
        assert checkpoints.latest(folder).record["note"] == 4
        assert not [*folder.glob("*.part")]
        begin()

    def begin():
        for path in folder.iterdir():
            path.unlink()
        for epoch in (1, 2, 3):
            write(folder, epoch)

    begin()
    print(sum(faults.at_every_call(mode, write_fourth, OSError, check) for mode in faults.MODES))


def test_a_fault_at_any_call_while_writing_leaves_the_last_checkpoint_whole(tmp_path):
    code = f"""
from pathlib import Path
from tests.adre_train.test_checkpoints import disturb
disturb(Path({str(tmp_path)!r}))
"""
    assert int(faults.run(faults.build(tmp_path.parent), code)) >= 12 * len(faults.MODES)
