from .by_name import load_model as load_model
from .execution import Execution as Execution
from .networks import DigitsNet as DigitsNet
from .networks import Standardise as Standardise
from .networks import build as build
from .networks import load_published as load_published
