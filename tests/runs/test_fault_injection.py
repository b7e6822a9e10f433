"""Fault injection: each write, sync and rename of a run fails once, or is the last thing done.

As SQLite is tested: the n-th call fails, for every n, until a run ends without one.
"""

import errno
import os

ROWS = 12
CODE = errno.ENOSPC


class Faults:
    """Counts what touches the disk, and lets the n-th such call fail."""

    def __init__(self, n, fail):
        self.n, self.fail, self.calls = n, fail, 0

    def met(self):
        self.calls += 1
        if self.calls == self.n:
            self.fail()

    def __call__(self, function):
        def counted(*args, **options):
            self.met()
            return function(*args, **options)

        return counted

    @property
    def happened(self):
        return self.calls >= self.n


def full():
    raise OSError(CODE, os.strerror(CODE))


def killed():
    os._exit(9)
