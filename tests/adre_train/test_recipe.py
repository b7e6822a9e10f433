import dataclasses
import math

import pytest

from adre_train import recipe
from adre_train.recipe import Recipe
from tcertify.classifiers import networks as models


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe_that_comes_along_loads_and_names_a_known_architecture(name):
    assert recipe.load(name).architecture in (*models.ARCHITECTURES, *models.SMALL)


def test_the_recipes_hold_the_paper_s_settings():
    cifar, adversarial = recipe.load("cifar10"), recipe.load("cifar10-adv")
    assert (cifar.architecture, cifar.batch, cifar.k, cifar.epochs) == (
        "cifar-resnet110",
        400,
        8,
        150,
    )
    assert [cifar.learning_rate(e) for e in (0, 49.9, 50, 100)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.001]
    )
    assert (adversarial.steps, adversarial.k, adversarial.per) == (2, 8, "mean")
    original = recipe.load("cifar10", ["per=mean", "k=4"])
    assert (cifar.per, original.per, original.k) == ("single", "mean", 4)
    imagenet = recipe.load("imagenet")
    assert (imagenet.architecture, imagenet.batch, imagenet.k) == ("resnet50", 256, 1)
    assert (imagenet.momentum, imagenet.label_smoothing) == (0.875, 0.1)
    assert imagenet.weight_decay == 1 / 32768
    assert (recipe.load("imagenet-k4").batch, recipe.load("imagenet-k4").k) == (64, 4)
    assert (recipe.load("imagenet-adv").steps, recipe.load("imagenet-adv").k) == (1, 1)


@pytest.mark.parametrize("epoch", [0, 0.5, 3, 7.99, 8, 8.01, 30, 49.5])
def test_the_cosine_schedule_is_the_paper_s(epoch):
    falling = 0.05 * (1 + math.cos(math.pi * (epoch - 8) / 42))
    expected = 0.1 * epoch / 8 if epoch < 8 else falling
    assert recipe.load("imagenet").learning_rate(epoch) == pytest.approx(expected, rel=1e-12)


def test_eps_grows_linearly_over_the_first_epochs():
    grown = Recipe(eps=0.5, steps=1, eps_warmup=4)
    assert [grown.attack_radius(e) for e in range(6)] == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
    assert Recipe(eps=0.5, steps=1).attack_radius(0) == 0.5


def test_settings_are_put_over_the_recipe():
    changed = recipe.load("digits", ["lam=0.3", "risk = radius", 'schedule="step"', "bf16=true"])
    assert (changed.lam, changed.risk, changed.schedule, changed.bf16) == (
        0.3,
        "radius",
        "step",
        True,
    )
    assert recipe.load("digits", ["lam=1"]).lam == 1.0


def test_a_file_is_read_by_its_path(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('sigma = 0.25\narchitecture = "resnet50"\n')
    loaded = recipe.load(str(path))
    assert loaded == Recipe(sigma=0.25, architecture="resnet50")
    assert dataclasses.asdict(loaded)["sigma"] == 0.25


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lam=-1", r"`lam` must be at least 0 and finite, got -1\.0\."),
        ("lam=nan", r"`lam` must be at least 0 and finite, got nan\."),
        ("k=0", r"`k` must be at least 1, got 0\."),
        ("k=1.5", r"`k` must be int, got 1\.5\."),
        ("k=true", r"`k` must be int, got True\."),
        ("sigma=0", r"`sigma` must be positive and finite, got 0\.0\."),
        ("sigma=-0.5", r"`sigma` must be positive and finite, got -0\.5\."),
        ("sigma=large", r"`sigma` must be float, got 'large'\."),
        ("eps=-0.1", r"`eps` must be at least 0 and finite, got -0\.1\."),
        ("steps=-1", r"`steps` must be at least 0, got -1\."),
        ("floor=1", r"`floor` must be in \[0, 1\), got 1\.0\."),
        ("label_smoothing=2", r"`label_smoothing` must be in \[0, 1\), got 2\.0\."),
        (
            "risk=trades",
            r"`risk` must be one of adre, radius, signed-radius, stability, got 'trades'\.",
        ),
        ("schedule=linear", r"`schedule` must be one of step, cosine, got 'linear'\."),
        ("lamda=0.1", r"A recipe has no `lamda`\. Did you mean lam\?"),
        ("zzzzzz=0.1", r"A recipe has no `zzzzzz`\. Did you mean accumulate or "),
        ("lam", r"`--set` must be key=value, got 'lam'\."),
        ("validate_images=0", r"`validate_images` must be at least 1, got 0\."),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    with pytest.raises(ValueError, match=message):
        recipe.load("digits", [setting])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 0.25}, "`eps` needs an attack: give `steps` as well."),
        ({"steps": 2}, "`steps` need a radius of the attack: give `eps` as well."),
        ({"eps_warmup": 3}, "`eps_warmup` needs an attack: give `eps` and `steps`."),
        ({"warmup": 30}, "`warmup` is 30 of 30 epochs, so that `lr` is never reached."),
        (
            {"eps": 1.0, "steps": 1, "eps_warmup": 31},
            "`eps_warmup` is 31 of 30 epochs, so that `eps` is never reached.",
        ),
        (
            {"risk": "signed-radius", "lam": 3.0, "steps": 2, "eps": 0.5},
            "`steps` attack the risk of adre, not of signed-radius.",
        ),
        (
            {"risk": "radius", "per": "single"},
            "`per` = single is set for `risk` radius, which does not read it.",
        ),
        (
            {"risk": "stability", "floor": 0.1},
            "`floor` = 0.1 is set for `risk` stability, which does not read it.",
        ),
        (
            {"risk": "stability", "label_smoothing": 0.1},
            "`label_smoothing` is set for `risk` stability, which does not read it.",
        ),
        (
            {"risk": "radius", "floor": 0.0},
            "`floor` must be in (0, 0.5) for `risk` radius, got 0.",
        ),
        (
            {"lam": 0.0, "per": "single"},
            "`k` makes 8 copies, of which `per` = single uses one at lam = 0.",
        ),
        (
            {"accumulate": 200},
            "`accumulate` = 200 parts are more than the 128 images of a batch.",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the whole sentence is compared
        Recipe(**settings)
    assert str(refused.value) == message


def test_the_copies_that_only_the_attack_uses_are_no_contradiction():
    assert Recipe(lam=0.0, per="single", k=8, steps=2, eps=0.25).k == 8


def test_a_missing_recipe_is_named_with_those_there_are():
    with pytest.raises(FileNotFoundError, match=r"svhn is neither a file nor one of .* digits, "):
        recipe.load("svhn")


def test_a_file_that_is_no_toml_is_named(tmp_path):
    path = tmp_path / "broken.toml"
    path.write_text("sigma = = 3")
    with pytest.raises(ValueError, match=r"broken\.toml is no TOML: .*line 1"):
        recipe.load(str(path))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"sigma = " + b"[" * 100_000])
def test_a_file_that_is_no_text_or_nested_without_end_is_no_toml(tmp_path, content):
    path = tmp_path / "hostile.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"hostile\.toml is no TOML"):
        recipe.load(str(path))
