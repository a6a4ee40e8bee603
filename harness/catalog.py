"""Every choice a cell can name: its parameters, their bounds, what it is, and the class that implements it.

This module imports no torch, so a grid is planned and refused on a login node in milliseconds. One choice is one
frozen `Spec`; `harness.build` imports its `target` inside the job and calls it with the spec's parameters.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from pydantic_core import PydanticCustomError

from harness.spec import Frozen, Spec

# ---------------------------------------------------------------------------------------------------- data


class DataSpec(Spec):
    """Where pictures come from and how they are split. The validation split is the end of the training split."""

    default_name = "pictures"

    image_size: int = Field(64, ge=8, le=4096)
    """Height and width in pixels after decoding."""
    test_images: PositiveInt | None = None
    """Use only the first so many test images; null uses all."""
    train_images: PositiveInt | None = None
    """Use only the first so many training images, before the validation split; null uses all."""
    validation_images: PositiveInt | None = None
    """Size of the validation split; null takes the source's own default."""
    crop: int | None = Field(None, ge=8)
    """Train on random square crops of so many pixels; null trains on whole images. Held-out images stay whole."""

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.crop is not None and self.crop > self.image_size:
            raise PydanticCustomError(
                "choice",
                "crop {crop} is larger than image_size {size}",
                {"crop": self.crop, "size": self.image_size},
            )
        return self

    def files(self) -> list[Path]:
        """The image files of the source in name order, or none where it has no files.

        Raises:
            ValueError: one line that names the field, where the folder is missing or holds something else.
        """
        return []


class Pictures(DataSpec):
    """Patches of the CC0 colour photographs inside scikit-image: chelsea is for testing, the others for training, at
    their own size and at twice that."""

    target = "harness.data:Pictures"
    name: Literal["pictures"] = "pictures"


class Folder(DataSpec):
    """Any folder of images, resized to a square; the last tenth in name order is the test split."""

    target = "harness.data:Folder"
    name: Literal["folder"] = "folder"
    root: Path
    """The folder; every visible file in it must be an image."""

    def files(self) -> list[Path]:
        """Every visible file of the folder."""
        return _image_files(self.root)


class CelebA(DataSpec):
    """CelebA in its standard layout, resized without crop to a square as in the paper (section 5)."""

    target = "harness.data:CelebA"
    location_fields = frozenset({"root"})
    name: Literal["celeba"] = "celeba"
    root: Path
    """The folder that holds img_align_celeba/."""
    image_size: int = Field(128, ge=8, le=4096)
    """Height and width in pixels after the resize."""
    split_at: PositiveInt = 8000
    """The first so many images in name order train, the others test."""

    def files(self) -> list[Path]:
        """Every file of img_align_celeba/."""
        files = _image_files(self.root / "img_align_celeba")
        if len(files) <= self.split_at:
            raise ValueError(
                f"data.split_at: must be less than the {len(files)} images in {self.root} (got {self.split_at})"
            )
        return files


IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"data.root: no folder {folder}")
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    for path in files:
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            raise ValueError(f"data.root: {path} is not an image (allowed: {' '.join(IMAGE_SUFFIXES)})")
    if len(files) < 3:
        raise ValueError(f"data.root: {folder} holds {len(files)} images; at least 3 are needed to split")
    return files


# ------------------------------------------------------------------------------------------------- physics


class PhysicsSpec(Spec):
    """The forward operator A of d = A x + noise."""

    default_name = "gaussian-blur"

    noise_std: NonNegativeFloat = 0.01
    """Standard deviation of the white Gaussian noise, in units of the pixel values."""
    value_range: tuple[float, float] = (0.0, 1.0)
    """Pixel values of black and white."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.value_range[0] >= self.value_range[1]:
            raise PydanticCustomError(
                "range",
                "value_range must be [low, high] with low < high, not {value}",
                {"value": list(self.value_range)},
            )
        return self


class _Blur(Frozen):
    """What every Gaussian blur has."""

    kernel_size: PositiveInt = 5
    """Taps of the kernel along one axis; odd."""
    kernel_std: PositiveFloat = 2.236
    """Standard deviation of the kernel in pixels."""
    boundary: Literal["zero", "circular"] = "zero"
    """What lies beyond the picture's edge."""

    @model_validator(mode="after")
    def _is_odd(self) -> Self:
        if self.kernel_size % 2 == 0:
            raise PydanticCustomError("odd", "kernel_size must be odd, not {value}", {"value": self.kernel_size})
        return self


class GaussianBlur(_Blur, PhysicsSpec):
    """Separable Gaussian blur with an exact proximal operator (paper, section 5)."""

    target = "harness.physics:GaussianBlur"
    name: Literal["gaussian-blur"] = "gaussian-blur"


class _Protocol(_Blur):
    """A blur that others have published figures for: its name stands for all of its fields, so none can be changed."""

    name: str

    @model_validator(mode="after")
    def _is_as_published(self) -> Self:
        for field, published in type(self).model_fields.items():
            value = getattr(self, field)
            if value != published.default:
                raise PydanticCustomError(
                    "choice",
                    "protocol {name} has {field} {published}, not {value}; use gaussian-blur for a blur of your own",
                    {"name": self.name, "field": field, "published": published.default, "value": value},
                )
        return self


class Paper(_Protocol, PhysicsSpec):
    """Protocol of the paper's text: pixels on [0, 1], 5x5 taps of variance 5, noise 0.01."""

    target = "harness.physics:GaussianBlur"
    name: Literal["paper"] = "paper"
    kernel_std: PositiveFloat = 5**0.5
    """Standard deviation of the kernel in pixels: "variance 5" (paper, section 5)."""


class Code2022(_Protocol, PhysicsSpec):
    """Protocol of the paper's code of 2022, and of Gilton et al. 2021: pixels on [-1, 1], 5x5 taps of deviation 5."""

    target = "harness.physics:GaussianBlur"
    name: Literal["code2022"] = "code2022"
    kernel_std: PositiveFloat = 5.0
    """Standard deviation of the kernel in pixels."""
    value_range: tuple[float, float] = (-1.0, 1.0)
    """Pixel values of black and white; the noise is half as strong as on [0, 1]."""


class Code2024(_Protocol, PhysicsSpec):
    """Protocol of the paper's later code: pixels on [-1, 1], 5x5 taps of deviation 1."""

    target = "harness.physics:GaussianBlur"
    name: Literal["code2024"] = "code2024"
    kernel_std: PositiveFloat = 1.0
    """Standard deviation of the kernel in pixels."""
    value_range: tuple[float, float] = (-1.0, 1.0)
    """Pixel values of black and white; the noise is half as strong as on [0, 1]."""


# ------------------------------------------------------------------------------------------------ networks


class NetworkSpec(Spec):
    """The residual network N of the denoiser D(x) = x - N(x). No BatchNorm: N lives inside a fixed point."""

    default_name = "dncnn"

    lipschitz: PositiveFloat | None = None
    """Largest operator norm of each convolution, so that DnCNN's |N| is at most .05 lipschitz^depth; null: no limit."""

    def parameters(self) -> dict[str, Any]:
        """All but `lipschitz`: `harness.lipschitz` sees to it from outside, whatever the network."""
        return {key: value for key, value in super().parameters().items() if key != "lipschitz"}


class DnCNN(NetworkSpec):
    """Plain convolutions and ReLU (Zhang et al. 2017, without BatchNorm)."""

    target = "harness.networks:DnCNN"
    name: Literal["dncnn"] = "dncnn"
    depth: int = Field(17, ge=2, le=64)
    """Number of 3x3 convolutions."""
    width: PositiveInt = 64
    """Features of the hidden layers."""


class UNet(NetworkSpec):
    """A small U-Net: one convolution pair a level, features doubled at each halving."""

    target = "harness.networks:UNet"
    name: Literal["unet"] = "unet"
    levels: int = Field(2, ge=1, le=5)
    """How often the picture is halved."""
    width: PositiveInt = 32
    """Features of the first level."""


# ---------------------------------------------------------------------------------------------------- maps


class MapSpec(Spec):
    """The map T(x; d) whose fixed point is the reconstruction."""

    iterated: ClassVar[bool] = True
    """False where T does not depend on x: one evaluation reconstructs, and no pretrained denoiser is plugged in."""
    damping: float = Field(0.45, gt=0, le=1)
    """theta in (1 - theta) x + theta T(x); it moves no fixed point and keeps negative eigenvalues off -1; 1: none."""


class DeGrad(MapSpec):
    """DE-GRAD: T(x) = x - step_size (A^T(Ax - d) + weight N(x)) (paper, eq. 4)."""

    target = "harness.maps:DeGrad"
    name: Literal["de-grad"] = "de-grad"
    step_size: PositiveFloat = 2.0
    """eta, of which damping leaves .9; it does not move the fixed point, so it is trained only when unrolled."""
    weight: PositiveFloat = 0.25
    """Initial value of the trained weight lambda of the prior."""


class DeProx(MapSpec):
    """DE-PROX: T(x) = D_weight(x - step_size A^T(Ax - d)) (paper, section 3.3)."""

    target = "harness.maps:DeProx"
    name: Literal["de-prox"] = "de-prox"
    step_size: PositiveFloat = 1.9
    """Initial value of the trained step eta."""
    weight: PositiveFloat = 0.475
    """Initial value of the trained weight lambda of the prior."""


class DeAdmm(MapSpec):
    """DE-ADMM on the state (z, u), in the order of Gilton et al. 2021."""

    target = "harness.maps:DeAdmm"
    name: Literal["de-admm"] = "de-admm"
    penalty: PositiveFloat = 4.0
    """Initial value of the trained alpha of the proximal step."""
    weight: PositiveFloat = 1.0
    """Initial value of the trained weight lambda of the prior."""
    dual_step: PositiveFloat = 1.0
    """beta; it does not move the fixed point, so it is trained only when unrolled."""


class DeHqs(MapSpec):
    """DE-HQS: T(x) = prox(D(x)), half-quadratic splitting with the exact proximal step."""

    target = "harness.maps:DeHqs"
    name: Literal["de-hqs"] = "de-hqs"
    penalty: PositiveFloat = 4.0
    """Initial value of the trained alpha of the proximal step."""


class FeedForward(MapSpec):
    """No fixed point: from the measurement and its direct inverse p, the network is trained to tell p's error."""

    target = "harness.maps:FeedForward"
    iterated = False
    name: Literal["feed-forward"] = "feed-forward"
    penalty: PositiveFloat = 20.0
    """Initial value of the trained alpha of p, the proximal step from A^T d."""
    damping: float = Field(1.0, ge=1, le=1)
    """Nothing to damp: T forgets x."""


# ------------------------------------------------------------------------------------------------- solvers


class AdjointSolverSpec(Spec):
    """A solver of the adjoint equation w = v + J^T w: a linear solver, or any fixed-point solver."""

    default_name = "anderson"

    tol: PositiveFloat | None = 1e-4
    """Stop a sample at |T(x) - x| <= tol |T(x)|, a linear solver at |v + J^T w - w| <= tol |v|; null never stops."""
    max_steps: PositiveInt = 50
    """Most evaluations of T, or products with the Jacobian, for one solve."""

    @classmethod
    def choices(cls) -> dict[str, type[Self]]:
        """The family's own choices and those of the narrower families inside it."""
        narrower = [family for family in cls.__subclasses__() if Spec in family.__bases__]
        own = {name: spec for name, spec in super().choices().items() if spec not in narrower}
        return own | {name: spec for family in narrower for name, spec in family.choices().items()}


class Gmres(AdjointSolverSpec):
    """GMRES without restart (Saad & Schultz 1986): the best w that max_steps products can reach, all of them kept."""

    target = "harness.linear:Gmres"
    name: Literal["gmres"] = "gmres"


class CgNormal(AdjointSolverSpec):
    """Conjugate gradients on the normal equations; half of its products are with J itself, in forward mode."""

    target = "harness.linear:CgNormal"
    name: Literal["cg-normal"] = "cg-normal"
    max_steps: Annotated[int, Field(ge=2)] = 50
    """Most products with the Jacobian for one solve; a step takes two."""


class SolverSpec(AdjointSolverSpec, Spec):
    """A fixed-point solver, for the forward solve and for the adjoint solve alike."""


class Picard(SolverSpec):
    """Relaxed iteration x <- x + relaxation (T(x) - x); with 1 it is the plain one."""

    target = "harness.solvers:Picard"
    name: Literal["picard"] = "picard"
    relaxation: float = Field(1.0, gt=0, le=2)
    """1 is the plain iteration; less damps it, more shows how much margin a map has."""


class Anderson(SolverSpec):
    """Anderson acceleration, type II (Walker & Ni 2011), per sample, with a relative ridge."""

    target = "harness.solvers:Anderson"
    name: Literal["anderson"] = "anderson"
    memory: int = Field(10, ge=1, le=50)
    """Iterates combined in one step; 10 takes a quarter fewer evaluations than 5 where the spectral radius is .96."""
    ridge: NonNegativeFloat = 1e-6
    """Ridge on the Gram matrix of the residuals, in units of its diagonal."""
    mixing: float = Field(1.0, gt=0, le=1)
    """Weight of T(x) against x in the combination."""


class Broyden(SolverSpec):
    """Broyden's good method (Broyden 1965), per sample, its inverse Jacobian made of the steps taken."""

    target = "harness.broyden:Broyden"
    name: Literal["broyden"] = "broyden"
    memory: int = Field(20, ge=1, le=200)
    """Steps remembered before it starts afresh; `shine` reuses what is remembered at the end."""


# ------------------------------------------------------------------------------------------------ backprop


class BackpropSpec(Spec):
    """How the gradient passes the fixed point."""

    default_name = "jfb"
    finds_fixed_point: ClassVar[bool] = True
    """False where the method is a fixed number of steps from the initial state."""
    forward_solvers: ClassVar[frozenset[str]] = frozenset()
    """Names of the forward solvers it goes with; empty where it goes with all."""
    solves_adjoint: ClassVar[bool] = False
    """True where it solves the adjoint equation, and an earlier solution is a good start."""


class Jfb(BackpropSpec):
    """Jacobian-free backpropagation: the inverse of I - J is replaced by I (Fung et al. 2022; paper, eq. 6)."""

    target = "harness.backprop:Jfb"
    name: Literal["jfb"] = "jfb"


class Implicit(BackpropSpec):
    """Exact implicit differentiation: w = v + J^T w is solved, then w dT/dTheta (paper, eq. 5)."""

    target = "harness.backprop:Implicit"
    solves_adjoint = True
    name: Literal["implicit"] = "implicit"
    solver: AdjointSolverSpec = Anderson(tol=1e-3, max_steps=25)
    """Solver of the adjoint equation; its tolerance is relative."""


class Neumann(BackpropSpec):
    """The Neumann series of the exact gradient, cut after a fixed number of terms."""

    target = "harness.backprop:Neumann"
    name: Literal["neumann"] = "neumann"
    order: NonNegativeInt = 5
    """Products with the Jacobian; 0 is JFB."""


class StochasticNeumann(BackpropSpec):
    """The Neumann series cut at random, its terms weighted so that the gradient is unbiased (Chen et al. 2019)."""

    target = "harness.backprop:StochasticNeumann"
    name: Literal["stochastic-neumann"] = "stochastic-neumann"
    continuation: float = Field(0.9, gt=0, lt=1)
    """Probability of one more term: c / (1 - c) products on average; the variance is finite if |J|^2 < c."""


class Shine(BackpropSpec):
    """Broyden's estimate of the inverse from the forward solve, reused for the adjoint (Ramzi et al. 2022)."""

    target = "harness.backprop:Shine"
    forward_solvers = frozenset({"broyden"})
    name: Literal["shine"] = "shine"


class Phantom(BackpropSpec):
    """Automatic differentiation through a few damped steps from the fixed point (Geng et al. 2021)."""

    target = "harness.backprop:Phantom"
    name: Literal["phantom"] = "phantom"
    steps: PositiveInt = 5
    """Steps with a graph."""
    tau: float = Field(0.5, gt=0, le=1)
    """Weight of T(x) against x in each of them."""


class Truncated(BackpropSpec):
    """Automatic differentiation through the last steps only, taken at the fixed point; one step is JFB."""

    target = "harness.backprop:Truncated"
    name: Literal["truncated"] = "truncated"
    steps: PositiveInt = 5
    """Steps with a graph."""


class Unrolled(BackpropSpec):
    """Plain automatic differentiation through every step of x <- T(x) (deep unrolling; paper, section 3.1)."""

    target = "harness.backprop:Unrolled"
    finds_fixed_point = False
    name: Literal["unrolled"] = "unrolled"
    steps: PositiveInt = 10
    """Steps K; the cell's solver is not used."""
    checkpoint: bool = False
    """Keep only the states and compute each step twice: less memory, a third more time."""


# --------------------------------------------------------------------------------- optimisers and schedules


class OptimizerSpec(Spec):
    """A torch.optim optimiser."""

    default_name = "adam"

    lr: PositiveFloat = 1e-3
    """Learning rate before the schedule."""


class Adam(OptimizerSpec):
    """Adam (Kingma & Ba 2015)."""

    target = "torch.optim:Adam"
    name: Literal["adam"] = "adam"


class SGD(OptimizerSpec):
    """Stochastic gradient descent with momentum."""

    target = "torch.optim:SGD"
    name: Literal["sgd"] = "sgd"
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum factor."""


class ScheduleSpec(Spec):
    """Learning rate against step (paper, section 8)."""

    default_name = "cosine"


class Fixed(ScheduleSpec):
    """A constant learning rate."""

    target = "harness.schedules:fixed"
    name: Literal["fixed"] = "fixed"


class Step(ScheduleSpec):
    """Multiplied by `factor` at `drops` equally spaced steps of the training."""

    target = "harness.schedules:step"
    name: Literal["step"] = "step"
    factor: float = Field(0.3, gt=0, lt=1)
    """Factor of each drop."""
    drops: PositiveInt = 3
    """Number of drops."""


class Cosine(ScheduleSpec):
    """Cosine annealing to zero over the whole training."""

    target = "harness.schedules:cosine"
    name: Literal["cosine"] = "cosine"


# ----------------------------------------------------------------------------------------------- baselines


class BaselineSpec(Spec):
    """A reconstruction without training for the task; its parameters are tuned on the validation split."""

    needs_denoiser: ClassVar[bool] = False
    """True where the pretrained denoiser is plugged in."""


class Degraded(BaselineSpec):
    """The measurement itself."""

    target = "harness.baselines:Degraded"
    name: Literal["degraded"] = "degraded"


class DirectInverse(BaselineSpec):
    """The inverse of A applied to the measurement (paper, section 5)."""

    target = "harness.baselines:DirectInverse"
    name: Literal["direct-inverse"] = "direct-inverse"


class GradientDescent(BaselineSpec):
    """Gradient descent on the data fidelity with early stopping (paper, section 5)."""

    target = "harness.baselines:GradientDescent"
    name: Literal["gradient-descent"] = "gradient-descent"


class Tikhonov(BaselineSpec):
    """Least squares with a quadratic penalty, solved exactly (paper, eq. 2)."""

    target = "harness.baselines:Tikhonov"
    name: Literal["tikhonov"] = "tikhonov"


class Wiener(BaselineSpec):
    """Wiener deconvolution with a Laplacian penalty (scikit-image)."""

    target = "harness.baselines:Wiener"
    name: Literal["wiener"] = "wiener"


class RichardsonLucy(BaselineSpec):
    """Richardson-Lucy deconvolution with early stopping (scikit-image)."""

    target = "harness.baselines:RichardsonLucy"
    name: Literal["richardson-lucy"] = "richardson-lucy"


class TotalVariation(BaselineSpec):
    """Least squares with joint-colour total variation, by the primal-dual method of Chambolle & Pock 2011."""

    target = "harness.baselines:TotalVariation"
    name: Literal["total-variation"] = "total-variation"
    iterations: PositiveInt = 100
    """Primal-dual iterations; PSNR is then within 0.001 dB of 1,000 iterations on the validation pictures."""


class PnpPgd(BaselineSpec):
    """Plug-and-play: proximal gradient steps with the pretrained denoiser as proximal operator."""

    target = "harness.baselines:PnpPgd"
    needs_denoiser = True
    name: Literal["pnp-pgd"] = "pnp-pgd"
    iterations: PositiveInt = 100
    """Steps, every one evaluates the denoiser."""


class PnpAdmm(BaselineSpec):
    """Plug-and-play: ADMM with the pretrained denoiser as proximal operator."""

    target = "harness.baselines:PnpAdmm"
    needs_denoiser = True
    name: Literal["pnp-admm"] = "pnp-admm"
    iterations: PositiveInt = 100
    """Steps, every one evaluates the denoiser."""
