from .defects import find_defects as find_defects
from .defects import recheck as recheck
from .noise import ESTIMATION as ESTIMATION
from .noise import PREDICTION as PREDICTION
from .noise import SELECTION as SELECTION
from .noise import VALIDATION as VALIDATION
from .noise import GaussianNoise as GaussianNoise
from .sampler import Sampler as Sampler
