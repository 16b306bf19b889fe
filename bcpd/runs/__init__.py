"""From specifications to stored results: sweeps, tuning, summaries over draws, and the files they are kept in."""

from bcpd.runs.results import read_results, write_results
from bcpd.runs.stages import Report, Stages, landed
from bcpd.runs.store import Store, StoreError, read_rows
from bcpd.runs.summary import Quantity, summarise
from bcpd.runs.sweep import Progress, SweepError, Task, sweep
from bcpd.runs.tuning import Trial, choose

__all__ = [
    "Progress",
    "Quantity",
    "Report",
    "Stages",
    "Store",
    "StoreError",
    "SweepError",
    "Task",
    "Trial",
    "choose",
    "landed",
    "read_results",
    "read_rows",
    "summarise",
    "sweep",
    "write_results",
]
