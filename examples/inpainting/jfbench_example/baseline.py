"""A reconstruction without training, to compare with."""

from torch import Tensor
from torch.nn.functional import avg_pool2d

from harness.models import Parameter
from harness.physics import Physics


class LocalMean:
    """Diffuses visible pixels into hidden ones: repeated 3 x 3 means, with the measurement put back by a proximal step.

    `parameters` are tuned on the validation pictures; jfbench passes their values in this order.
    """

    parameters = (Parameter("iterations", 10, 1.5, whole=True), Parameter("penalty", 10.0, 2.0))

    def __call__(self, physics: Physics, d: Tensor, iterations: float, penalty: float) -> Tensor:
        """Reconstruct measurements d, (batch, 3, height, width)."""
        x = physics.A_adjoint(d)
        for _ in range(int(iterations)):
            mean = avg_pool2d(x, kernel_size=3, stride=1, padding=1, count_include_pad=False)
            x = physics.prox_l2(mean, d, penalty)
        return x
