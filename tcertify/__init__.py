"""Robustness certificates for randomized-smoothed classifiers."""

from .certify import ABSTAIN as ABSTAIN
from .certify import Certificates as Certificates
from .certify import certify_counts as certify_counts
from .engine import certify_dataset as certify_dataset
from .engine import predict_dataset as predict_dataset
from .export import export_table as export_table
from .smooth import Certificate as Certificate
from .smooth import Smooth as Smooth
from .smooth import SmoothedClassifier as SmoothedClassifier
from .smooth import predict_counts as predict_counts
from .table import read_table as read_table
from .verify import recertify_run as recertify_run
from .verify import verify_run as verify_run
