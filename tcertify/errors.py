"""Errors that end a run; each message is one sentence for whoever started it."""

from __future__ import annotations


class RunError(RuntimeError):
    """What ends a run, or refuses it."""


class RunFileError(RunError):
    """A run file that cannot be written, read or continued; the message says why."""


class VoidCertificateError(RunError):
    """Certificates would be void; the message says why and how to accept it knowingly."""


class VotesLostError(RunError):
    """Votes that were cast and not counted; no certificate can be made of the others."""


class StoppedError(RunError):
    """A run that was stopped because image after image failed; the message says how."""
