from .defects import find_defects as find_defects
from .sampler import ESTIMATION as ESTIMATION
from .sampler import PREDICTION as PREDICTION
from .sampler import SELECTION as SELECTION
from .sampler import Sampler as Sampler
