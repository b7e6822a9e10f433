from .engine import certify_dataset as certify_dataset
from .engine import predict_dataset as predict_dataset
from .export import export_run as export_run
from .recertify import recertify_run as recertify_run
from .table import RunTable as RunTable
from .table import read_run as read_run
from .verify import Report as Report
from .verify import verify_run as verify_run
