"""The device that this process computes on, and what is known about it."""

import os

import torch

from harness.records.environment import host


def accelerator() -> torch.device | None:
    """The kind of accelerator here; None without one. Apple's has no float64, which jfbench needs."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return None if found is None or found.type == "mps" else found


def why_no_gpu() -> str:
    """In one line, what this node and this build of torch say about the missing GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.backends.cuda.is_built():
        reason = f"torch {torch.__version__} is built without CUDA"
    else:
        reason = f"torch {torch.__version__} for CUDA {torch.version.cuda}: {_driver_says()}"
    return f"no GPU on {host()} ({reason}; CUDA_VISIBLE_DEVICES is {'not set' if visible is None else repr(visible)})"


def _driver_says() -> str:
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).strip().splitlines()[0]
    return f"the driver shows {torch.cuda.device_count()} devices"


def hardware(device: torch.device) -> dict[str, object]:
    """Node, device, threads and, of a GPU, what identifies it and the libraries that compute on it."""
    common = {"host": host(), "device": str(device), "gpu": "", "threads": torch.get_num_threads()}
    if device.type != "cuda":
        return common
    card = torch.cuda.get_device_properties(device)
    return common | {
        "gpu": card.name,
        "gpu_uuid": str(getattr(card, "uuid", "")),
        "gpu_memory_bytes": card.total_memory,
        "gpu_multiprocessors": card.multi_processor_count,
        "version_cuda": torch.version.cuda,
        "version_cudnn": torch.backends.cudnn.version(),
    }


def shared_gpu(ranks: list[dict[str, object]]) -> str:
    """A sentence about the first GPU that two ranks share; empty if none is shared. One entry per rank."""
    owner: dict[object, int] = {}
    for rank, found in enumerate(ranks):
        key = (found["host"], found.get("gpu_uuid") or found["device"])
        if found["gpu"] and key in owner:
            return f"ranks {owner[key]} and {rank} share one GPU of {found['host']}; give each rank its own"
        owner[key] = rank
    return ""
