"""Student losses, one class each, by the contract of :mod:`bcpd.distill.method`; teachers are the case without one.

The settings that the methods were published with are data, in :mod:`bcpd.distill.published`; their formulas are pure
functions, in :mod:`bcpd.distill.functional`.
"""

from bcpd.distill.attention import AT
from bcpd.distill.cc import CC
from bcpd.distill.combined import Combined
from bcpd.distill.crd import CRD
from bcpd.distill.dkd import DKD
from bcpd.distill.each import Each
from bcpd.distill.fitnet import FitNet
from bcpd.distill.hsakd import HSAKD
from bcpd.distill.kd import KD
from bcpd.distill.method import Method, Phase, check_needs
from bcpd.distill.pkt import PKT
from bcpd.distill.review_kd import ReviewKD
from bcpd.distill.rkd import RKD
from bcpd.distill.sp import SP
from bcpd.distill.started import Started
from bcpd.distill.supervised import Supervised
from bcpd.distill.vid import VID

__all__ = [
    "AT",
    "CC",
    "CRD",
    "DKD",
    "HSAKD",
    "KD",
    "PKT",
    "RKD",
    "SP",
    "VID",
    "Combined",
    "Each",
    "FitNet",
    "Method",
    "Phase",
    "ReviewKD",
    "Started",
    "Supervised",
    "check_needs",
]
