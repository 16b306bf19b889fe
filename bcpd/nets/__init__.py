"""Networks that return :class:`Views`, built by name; and weights that others trained."""

from bcpd.nets.conv import ConvNet
from bcpd.nets.views import HandNet, Net, TapShapes, Views
from bcpd.nets.weights import import_weights, load_weights
from bcpd.nets.zoo import NETS, build

__all__ = ["NETS", "ConvNet", "HandNet", "Net", "TapShapes", "Views", "build", "import_weights", "load_weights"]
