"""The models that are trained or compared: networks, maps, the equilibrium model, baselines, losses and precision.

Imports config, implicit and physics.
"""

from harness.models.baselines import Baseline, Parameter
from harness.models.build_model import build_equilibrium, build_network
from harness.models.equilibrium import Equilibrium, Output
from harness.models.maps import Map, Positive
from harness.models.networks import DnCNN, UNet

__all__ = [
    "Baseline",
    "DnCNN",
    "Equilibrium",
    "Map",
    "Output",
    "Parameter",
    "Positive",
    "UNet",
    "build_equilibrium",
    "build_network",
]
