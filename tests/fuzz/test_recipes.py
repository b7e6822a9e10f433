"""adre_train.recipe: a recipe whose settings are all in range, or an error that names one."""

from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adre_train import recipe
from tests.fuzz.mutations import NUMBERS, damaged

#: Every recipe of the package.
TEXTS = [
    (resources.files("adre_train") / "recipes" / f"{name}.toml").read_bytes()
    for name in recipe.names()
]
KEYS = st.sampled_from([*recipe.Recipe.__dataclass_fields__, "", "lr.x", "[", "lam\n"])
TOML = st.sampled_from(
    [
        "1",
        "1" + "0" * 400,
        "9" * 5000,
        "1e400",
        "nan",
        "inf",
        "-0.0",
        "5e-324",
        "true",
        "'x'",
        "x",
        "[" * 3000,
        "{}",
        "1979-05-27",
        "1\nlr = 1",
        "",
        "0x" + "f" * 5000,
        '"\\ud800"',
        "1e308",
    ]
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("recipes") / "a.toml"


def read(path, settings=()):
    try:
        found = recipe.load(str(path), settings)
    except ValueError as error:
        assert str(error)
        return
    for moment in (0, found.epochs / 3, found.epochs - 1):
        assert 0 <= found.learning_rate(moment) <= found.lr
        assert 0 <= found.attack_radius(int(moment)) <= found.eps


@given(st.sampled_from(TEXTS).flatmap(lambda text: damaged(text) | damaged(text, NUMBERS)))
def test_a_damaged_recipe_is_one_that_makes_sense_or_refused(path, content):
    path.write_bytes(content)
    read(path)


@given(st.lists(st.tuples(KEYS, TOML), max_size=3))
def test_settings_are_put_over_a_recipe_or_refused(settings):
    read(recipe.names()[0], [f"{key}={value}" for key, value in settings])
