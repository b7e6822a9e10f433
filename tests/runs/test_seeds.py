"""Seeds: numbers, secret ones that a resume takes up, and ones that nobody chooses."""

import pytest

from tcertify.errors import RunFileError
from tcertify.runs.seeds import random_seed
from tests.tiny import Network, certify, images, rows_of


def seed_of(path, **options):
    return certify(path, **{"n": 100} | options).settings.seed


def test_random_seeds_differ_and_fill_63_bits():
    drawn = {random_seed() for _ in range(64)}
    assert len(drawn) == 64
    assert all(0 <= seed < 2**63 for seed in drawn)
    assert max(drawn) > 2**62 > min(drawn)


def test_a_random_seed_is_recorded_and_draws_the_same_votes_again(tmp_path):
    seed = seed_of(tmp_path / "a.run", seed="random")
    assert seed_of(tmp_path / "b.run", seed="random") != seed
    assert seed_of(tmp_path / "c.run", seed=seed) == seed
    assert rows_of(tmp_path / "a.run") == rows_of(tmp_path / "c.run")


def test_a_resume_takes_the_seed_of_the_run(tmp_path):
    seed = seed_of(tmp_path / "a.run", seed="random", indices=range(4))
    assert seed_of(tmp_path / "a.run", seed="random", resume=True) == seed
    assert seed_of(tmp_path / "b.run", seed="random", resume=True) != seed  # there is no run yet
    with pytest.raises(RunFileError, match=r"`seed` is .* there and 1 here"):
        seed_of(tmp_path / "a.run", seed=1, resume=True)
    replaced = seed_of(tmp_path / "a.run", seed="random", resume=True, overwrite=True)
    assert replaced != seed


def test_a_derived_seed_is_that_of_model_data_and_settings(tmp_path):
    def derived(name, **options):
        return seed_of(tmp_path / f"{name}.run", seed="derived", **options)

    other = Network()
    other.linear.bias.data += 1e-6
    seed = derived("a")
    assert derived("b", indices=range(3), batch_size=7) == seed  # shards share it
    others = [
        derived("c", model=other),
        derived("d", data=images(13)),
        derived("e", sigma=0.25),
        derived("f", n=101),
        derived("g", method="joint"),
    ]
    assert len({seed, *others}) == 6


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        ("lucky", "`seed` must be a whole number, random or derived, got 'lucky'"),
        (-1, "`seed` must be at least 0, got -1"),
        (2**63, "`seed` must be at most"),
        (0.5, "`seed` must be a whole number, got 0.5"),
    ],
)
def test_what_is_no_seed_gets_one_sentence(tmp_path, seed, message):
    with pytest.raises(ValueError, match=message):
        certify(tmp_path / "a.run", seed=seed)
    assert not (tmp_path / "a.run").exists()
