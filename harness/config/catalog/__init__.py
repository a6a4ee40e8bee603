"""Every choice that a cell can name: what it is, its parameters, their bounds, and the class that implements it.

There is one file per family. They import only pydantic and `harness.config.spec`, so a login node plans or rejects a
grid within milliseconds; `harness.config.build` imports a choice's `target` inside the job.
"""

from harness.config.catalog.backprop import (
    BackpropSpec,
    Implicit,
    Jfb,
    Neumann,
    Phantom,
    Shine,
    StochasticNeumann,
    Truncated,
    Unrolled,
)
from harness.config.catalog.baselines import (
    BaselineSpec,
    Degraded,
    DirectInverse,
    GradientDescent,
    PnpAdmm,
    PnpPgd,
    RichardsonLucy,
    Tikhonov,
    TotalVariation,
    Wiener,
)
from harness.config.catalog.data import CelebA, DataSpec, Folder, Pictures
from harness.config.catalog.maps import DeAdmm, DeGrad, DeHqs, DeProx, FeedForward, MapSpec
from harness.config.catalog.metrics import LegacyPsnr, MetricSpec, Psnr, Ssim
from harness.config.catalog.networks import DnCNN, NetworkSpec, UNet
from harness.config.catalog.optimization import SGD, Adam, Cosine, Fixed, OptimizerSpec, ScheduleSpec, Step
from harness.config.catalog.physics import Code2022, Code2024, GaussianBlur, Paper, PhysicsSpec
from harness.config.catalog.solvers import AdjointSolverSpec, Anderson, Broyden, CgNormal, Gmres, Picard, SolverSpec

__all__ = [
    "SGD",
    "Adam",
    "AdjointSolverSpec",
    "Anderson",
    "BackpropSpec",
    "BaselineSpec",
    "Broyden",
    "CelebA",
    "CgNormal",
    "Code2022",
    "Code2024",
    "Cosine",
    "DataSpec",
    "DeAdmm",
    "DeGrad",
    "DeHqs",
    "DeProx",
    "Degraded",
    "DirectInverse",
    "DnCNN",
    "FeedForward",
    "Fixed",
    "Folder",
    "GaussianBlur",
    "Gmres",
    "GradientDescent",
    "Implicit",
    "Jfb",
    "LegacyPsnr",
    "MapSpec",
    "MetricSpec",
    "NetworkSpec",
    "Neumann",
    "OptimizerSpec",
    "Paper",
    "Phantom",
    "PhysicsSpec",
    "Picard",
    "Pictures",
    "PnpAdmm",
    "PnpPgd",
    "Psnr",
    "RichardsonLucy",
    "ScheduleSpec",
    "Shine",
    "SolverSpec",
    "Ssim",
    "Step",
    "StochasticNeumann",
    "Tikhonov",
    "TotalVariation",
    "Truncated",
    "UNet",
    "Unrolled",
    "Wiener",
]
