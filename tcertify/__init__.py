"""Robustness certificates for randomized-smoothed classifiers.

The public names stand in the stub beside this file; each loads at its first use, torch with it
where it needs torch.
"""

import lazy_loader as _lazy

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
