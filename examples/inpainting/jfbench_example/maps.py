"""A map whose fixed point is the reconstruction."""

from torch import Tensor, nn

from harness.models import Map
from harness.models.maps import Positive
from harness.physics import Physics


class ProxThenDenoise(Map):
    """T(x) = D(prox(x; d)) with D(w) = w - N(w): first fit the visible pixels, then denoise.

    jfbench passes the physics and the pretrained network N; the grid sets `penalty` and the parameter of every map,
    `damping`. The base class averages T with the identity by `damping`.
    """

    def __init__(self, physics: Physics, network: nn.Module, penalty: float, damping: float) -> None:
        super().__init__(physics, network, damping)
        self.penalty = Positive(penalty)
        """Trained; kept positive."""

    def step(self, state: Tensor, d: Tensor) -> Tensor:
        """One undamped step; state and d are (batch, 3, height, width)."""
        w = self.physics.prox_l2(state, d, self.penalty())
        return w - self.network(w)
