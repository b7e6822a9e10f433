"""A run on the workers of a Ray cluster: the rows are those of one process."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
