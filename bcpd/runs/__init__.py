"""From specifications to stored results: tuning, summaries over draws, and the files they are kept in."""

from bcpd.runs.results import read_results, write_results
from bcpd.runs.summary import Quantity, summarise
from bcpd.runs.tuning import Trial, choose

__all__ = ["Quantity", "Trial", "choose", "read_results", "summarise", "write_results"]
