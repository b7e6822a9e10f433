"""Damage to files, drawn by hypothesis: flips, truncations, splices and other numbers."""

import re

from hypothesis import strategies as st

#: Numbers at the edges of what formats can hold, in text ...
TEXTS = [
    *(b"0 1 -1 1.7 -0.0 0e999 1e-400 1e308 1e999 nan inf -inf".split()),
    *(str(2**bits).encode() for bits in (31, 32, 53, 63, 64)),
    *(b"1" + b"0" * 400, b"9" * 5000, b"true", b"null", b'""', b"[]", b"{}", b"[" * 2000),
]

#: ... and in 1, 2, 4 or 8 bytes.
WHOLES = (0, 1, -1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63)

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def _flip(draw, content, at):
    content[at] ^= 1 << draw(st.integers(0, 7))


def _truncate(draw, content, at):
    del content[at:]


def _cut(draw, content, at):
    del content[at : at + draw(st.integers(1, 64))]


def _splice(draw, content, at):
    start = draw(st.integers(0, len(content) - 1))
    content[at:at] = content[start : start + draw(st.integers(1, 256))]


def _overwrite(draw, content, at):
    length = draw(st.sampled_from([1, 4, 16, 512]))
    content[at : at + length] = bytes([draw(st.sampled_from([0, 9, 10, 32, 255]))]) * length


def _insert(draw, content, at):
    content[at:at] = draw(st.binary(min_size=1, max_size=16))


def _whole(draw, content, at):
    width = draw(st.sampled_from([1, 2, 4, 8]))
    value = draw(st.sampled_from(WHOLES)) % 2 ** (8 * width)
    content[at : at + width] = value.to_bytes(width, draw(st.sampled_from(["little", "big"])))


def _number(draw, content, at):
    """Put another number in the place of one that is written in digits."""
    found = _NUMBER.search(content, at) or _NUMBER.search(content)
    if found:
        content[found.start() : found.end()] = draw(st.sampled_from(TEXTS))


#: The edits of `damaged`, and the one that leaves a text the most sense.
EDITS = (_flip, _truncate, _cut, _splice, _overwrite, _insert, _whole, _number)
NUMBERS = (_number,)


@st.composite
def damaged(draw, content, edits=EDITS):
    """Bytes that differ from `content` by one to four edits."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        if changed:
            draw(st.sampled_from(edits))(draw, changed, draw(st.integers(0, len(changed) - 1)))
    return bytes(changed)


def values():
    """What a column of a database, or a member of a JSON object, may be instead."""
    return st.one_of(
        st.sampled_from([None, True, "", "x", [], {}, 1e308, 5e-324, -0.0, 10**400]),
        st.sampled_from(WHOLES),
        st.integers(-(2**65), 2**65),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=8),
    )
