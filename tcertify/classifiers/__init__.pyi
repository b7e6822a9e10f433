from .by_name import load as load
from .checkpoints import load_published as load_published
from .classifier import Classifier as Classifier
from .execution import Execution as Execution
from .networks import DigitsNet as DigitsNet
from .networks import Standardise as Standardise
from .networks import build as build
