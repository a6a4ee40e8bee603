"""From pictures on disk to batches on the device: sources, decoded data sets, and batches with their noise.

This room imports config and records.
"""

from harness.data.batches import Batch, Loader, Sample
from harness.data.dataset import Dataset, load
from harness.data.sources import Source

__all__ = ["Batch", "Dataset", "Loader", "Sample", "Source", "load"]
