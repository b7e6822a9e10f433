"""Training that makes smoothed classifiers certify well: the ADRE risk and its adversary.

The public names stand in the stub beside this file; each loads at its first use, and torch with it.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
