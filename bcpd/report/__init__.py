"""Stored results as tables, figures and one self-contained page."""

from bcpd.report.figures import Illustration, illustrations, save_figures
from bcpd.report.page import build_report, write_report
from bcpd.report.style import save_figure

__all__ = ["Illustration", "build_report", "illustrations", "save_figure", "save_figures", "write_report"]
