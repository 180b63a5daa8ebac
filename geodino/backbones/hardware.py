"""Where a model computes and in what arithmetic."""

import re
from collections.abc import Callable

import torch

from tiles.errors import InputError


def pick_device(device: str) -> torch.device:
    """Resolve ``auto``, ``cpu`` or ``cuda``.

    Raises:
        InputError: When a GPU is asked for and there is none, or the name is another one.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise InputError(f"--device takes auto, cpu or cuda, not {device}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("--device cuda was asked for, but PyTorch sees no GPU; use --device auto")
    return torch.device(device)


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Resolve ``auto``, ``fp32`` or ``bf16`` on a device.

    ``auto`` takes bf16 only where the hardware multiplies in it: emulated bf16 is several times slower than float32.

    Raises:
        InputError: When the name is another one.
    """
    if precision == "auto":
        native = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else cpu_has_bf16()
        return torch.bfloat16 if native else torch.float32
    known = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if precision not in known:
        raise InputError(f"--precision takes auto, fp32 or bf16, not {precision}")
    return known[precision]


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bf16 matrices (AMX or AVX512-BF16)."""
    probes: list[Callable[[], bool] | None] = [
        getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    ]
    return any(probe() for probe in probes if probe is not None)
