"""Devices: choice, synchronization, memory and peak performance."""

from __future__ import annotations

import gc
import platform
import time
from datetime import datetime, timezone

import torch

from streamnest.callbacks.throughput import peak_memory_gb
from streamnest.errors import UserError

# Dense TFLOP/s from data sheets by exact name, so that partitions and slower variants do not match: bfloat16, float32.
_DATA_SHEETS = {
    "NVIDIA H200": (989.0, 67.0),
    "NVIDIA H100 80GB HBM3": (989.0, 67.0),
    "NVIDIA A100-SXM4-40GB": (312.0, 19.5),
    "NVIDIA A100-SXM4-80GB": (312.0, 19.5),
    "NVIDIA L40S": (362.0, 91.6),
    "NVIDIA L4": (121.0, 30.3),
}


def choose_device(name: str) -> torch.device:
    """Returns the device of a name; `auto` is CUDA if present, otherwise the CPU.

    Raises:
        UserError: if the device is absent.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = "cuda" if present["cuda"] else "cpu"
    if not present[name]:
        found = ", ".join(kind for kind, there in present.items() if there)
        raise UserError(f"--device {name}: torch {torch.__version__} finds no such device: choose one of auto, {found}")
    return torch.device(name)


def describe(device: torch.device) -> dict[str, str]:
    """Returns device, version of torch and date."""
    cuda = torch.version.cuda
    return {
        "device": f"{device.type}: {device_name(device)}",
        "torch": torch.__version__ + (f" with CUDA {cuda}" if cuda and device.type == "cuda" else ""),
        "threads": str(torch.get_num_threads()),
        "date": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
    }


def device_name(device: torch.device) -> str:
    """Returns the name of a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def synchronize(device: torch.device) -> None:
    """Waits until the device has finished all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def reset_peak(device: torch.device) -> None:
    """Makes `peak_gb` count from now on; has no effect on a CPU, where it counts from the start of the process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_gb(device: torch.device) -> float | None:
    """Returns the peak memory of the device, or of the process on a CPU; None if it is not known."""
    return None if device.type == "mps" else peak_memory_gb(device)


def release() -> None:
    """Frees memory after an error; call it after the `except` clause, whose trace holds tensors."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """True for an error of an allocation, on any device."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("not enough memory" in text or "out of memory" in text)
    )


def known_tflops(device: torch.device, bfloat16: bool) -> float | None:
    """Returns the peak of the data sheet; None for unknown devices."""
    sheet = _DATA_SHEETS.get(device_name(device)) if device.type == "cuda" else None
    return sheet[0 if bfloat16 else 1] if sheet else None


def measured_tflops(device: torch.device, bfloat16: bool) -> float:
    """Measures square matrix products; the best of several counts, because the first ones start threads and clocks."""
    size = 8192 if device.type == "cuda" else 512
    matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16 if bfloat16 else torch.float32)

    def rate() -> float:
        synchronize(device)
        begin = time.perf_counter()
        matrix @ matrix
        synchronize(device)
        return 2 * size**3 / (time.perf_counter() - begin) / 1e12

    return max(rate() for _ in range(5))
