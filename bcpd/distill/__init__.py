"""Student losses, one class each, by the contract of :mod:`bcpd.distill.method`; teachers are the case without one."""

from bcpd.distill.each import Each
from bcpd.distill.kd import KD
from bcpd.distill.method import Method, Phase, check_needs
from bcpd.distill.supervised import Supervised

__all__ = ["KD", "Each", "Method", "Phase", "Supervised", "check_needs"]
