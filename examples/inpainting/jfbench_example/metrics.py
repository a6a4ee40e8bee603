"""A number for each reconstructed picture."""

from torch import Tensor


def mean_absolute_error(image: Tensor, truth: Tensor, value_range: tuple[float, float]) -> float:
    """Mean absolute error of a picture, (3, height, width), in fractions of the pixel range."""
    low, high = value_range
    return float((image - truth).abs().mean()) / (high - low)
