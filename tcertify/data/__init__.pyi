from . import cifar10 as cifar10
from . import digits as digits
from . import imagenet as imagenet
from .by_name import load as load
from .dataset import Dataset as Dataset
from .dataset import TensorDataset as TensorDataset
