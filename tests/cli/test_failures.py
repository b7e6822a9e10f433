"""explain: the user's mistake in his own file, ours in our words."""

import errno

import pytest

from tcertify.cli.failures import explain, is_broken_pipe
from tcertify.errors import RunError


def raised(function, *arguments):
    """The error of a call, with its traceback."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - any error at all
        function(*arguments)
    return caught.value


def test_an_error_of_the_users_code_is_shown_as_its_last_line(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("import json\n\ndef net():\n    return json.loads('{')\n")
    scope = {}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    text = explain(raised(scope["net"]), {})
    assert f"{path}, line 4, in net:\n    return json.loads('{{')\nJSONDecodeError: " in text
    assert text.endswith("`tcertify --traceback COMMAND ...` shows all of it.")


def test_an_error_in_a_process_that_reads_images_is_the_users_all_the_same(tmp_path):
    from torch.utils.data import DataLoader

    path = tmp_path / "mine.py"
    path.write_text(
        "class Data:\n"
        "    def __len__(self):\n        return 2\n"
        "    def __getitem__(self, index):\n        raise ValueError('no such\\n file')\n"
    )
    scope = {"__name__": "mine"}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    error = raised(lambda: list(DataLoader(scope["Data"](), num_workers=1)))
    assert explain(error, {}, "adre-train --traceback ...") == (
        f"Your code failed in {path}, line 5, in __getitem__:\n"
        "    raise ValueError('no such\\n file')\n"
        "ValueError: no such file. `adre-train --traceback ...` shows all of it."
    )


def test_a_network_of_librarys_parts_alone_is_named():
    from torch import nn, zeros

    from tcertify.classifiers import Classifier

    classifier = Classifier(nn.Linear(3, 2), 2)
    error = raised(classifier.logits, zeros(1, 4))
    assert explain(error, {}).startswith(("The network failed on a batch", "The base classifier"))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("`n` must be at least 1, got 0."), "--N must be at least 1, got 0."),
        (RunError('Accept it with allow=["random"].'), "Accept it with --allow random."),
        (OSError(errno.ENOENT, "No such file", "a.run"), "a.run: No such file."),
        (OSError(errno.EIO, "Input/output error"), "Input/output error."),
        (OSError("no errno at all"), "no errno at all"),
        (ModuleNotFoundError("Pictures need matplotlib"), "Pictures need matplotlib"),
    ],
)
def test_our_sentences_are_kept_in_the_words_of_the_command_line(error, text):
    assert explain(error, {"n": "--N"}) == text


@pytest.mark.parametrize("error", [KeyError("x"), MemoryError(), ZeroDivisionError("division")])
def test_what_nobody_expected_is_one_sentence_all_the_same(error):
    text = explain(error, {})
    assert "\n" not in text
    assert text.endswith("shows all of it.")


def test_code_that_is_not_python_is_shown_with_its_place():
    error = raised(compile, "def net(:\n", "mine.py", "exec")
    assert explain(error, {}).startswith("mine.py, line 1, is not Python: ")


def test_a_long_message_is_cut():
    assert len(explain(KeyError("x" * 5000), {})) < 600


def test_a_reader_that_left_is_no_error():
    assert is_broken_pipe(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert not is_broken_pipe(ValueError("x"))
