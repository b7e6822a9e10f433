import pytest

from tcertify._named import call_named, find_named, is_named, split_call


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "named_by_user.py").write_text(
        "class Models:\n    @staticmethod\n    def small(): return 'small'\n"
        "def big(depth): return depth\n"
    )
    return "named_by_user"


@pytest.mark.parametrize(
    ("name", "named"),
    [("a:f", True), ("a.b:c.d", True), ("a:", False), ("a/b.pt", False), ("C:/x:f", False)],
)
def test_a_function_is_told_from_a_path(name, named):
    assert is_named(name) is named


def test_arguments_are_literals():
    assert split_call("m:f(depth=20, name='a')", "MODEL") == ("m:f", {"depth": 20, "name": "a"})
    assert split_call("m:f", "MODEL") == ("m:f", {})


@pytest.mark.parametrize("text", ["m:f(20)", "m:f(depth=__import__('os'))", "m:f(", "m:f(a=1)+1"])
def test_other_arguments_are_refused_and_never_executed(text):
    with pytest.raises(ValueError, match=r"^MODEL m:f.*: its arguments cannot be read"):
        split_call(text, "MODEL")


def test_the_working_directory_is_searched(module):
    assert find_named(f"{module}:big", "MODEL")(3) == 3
    assert find_named(f"{module}:Models.small", "MODEL")() == "small"


def test_a_module_or_function_that_is_missing_is_named_with_what_there_is(module):
    with pytest.raises(ValueError, match=r"MODEL nowhere:f: No module named 'nowhere'"):
        find_named("nowhere:f", "MODEL")
    with pytest.raises(ValueError, match=rf"{module} has no huge; it has Models, big\."):
        find_named(f"{module}:huge", "MODEL")


def test_a_function_that_wants_other_arguments_is_named(module):
    big = find_named(f"{module}:big", "MODEL")
    assert call_named(big, "m:big", "MODEL", depth=3) == call_named(big, "m:big", "MODEL", 3) == 3
    with pytest.raises(ValueError, match=r"^MODEL m:big cannot be called as it is: missing a r.*'"):
        call_named(big, "m:big", "MODEL")


def test_a_type_error_of_the_function_s_own_passes():
    with pytest.raises(TypeError, match="mine"):
        call_named(failing, "m:f", "MODEL")


def failing():
    raise TypeError("mine")
