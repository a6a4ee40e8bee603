"""Learning-rate schedules from torch.optim.lr_scheduler; `total` is the number of training steps."""

from torch.optim import Optimizer, lr_scheduler


def fixed(optimizer: Optimizer, total: int) -> lr_scheduler.LRScheduler:
    """Keep the learning rate constant."""
    return lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=total)


def step(optimizer: Optimizer, total: int, factor: float, drops: int) -> lr_scheduler.LRScheduler:
    """Multiply the learning rate by `factor` at `drops` equally spaced steps."""
    milestones = [total * (k + 1) // (drops + 1) for k in range(drops)]
    return lr_scheduler.MultiStepLR(optimizer, milestones, gamma=factor)


def cosine(optimizer: Optimizer, total: int) -> lr_scheduler.LRScheduler:
    """Cosine annealing to zero over `total` steps (Loshchilov & Hutter 2017, without restarts)."""
    return lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)
