"""Robustness certificates for randomized-smoothed classifiers."""

from .certify import ABSTAIN as ABSTAIN
from .certify import Certificates as Certificates
from .certify import certify_counts as certify_counts
from .smooth import Certificate as Certificate
from .smooth import Smooth as Smooth
from .smooth import SmoothedClassifier as SmoothedClassifier
from .smooth import predict_counts as predict_counts
