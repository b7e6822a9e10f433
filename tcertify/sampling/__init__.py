"""Votes of a classifier under noise, and whether it is a function that can be certified."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
