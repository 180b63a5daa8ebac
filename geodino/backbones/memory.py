"""Whether a device has room for a backbone's weights, and how several share them.

Weights load without a second copy: tensors are mapped from the file, become the parameters of a module made on the
meta device, and are cast one by one. What has to fit is therefore the weights in the arithmetic asked for, plus the
activations of a batch.
"""

from typing import Any

import psutil
import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from tiles.errors import InputError

GIB = 2**30


def shard(module: Any, mesh: DeviceMesh) -> Any:
    """Spread a ViT's weights over the devices of a mesh, block by block (PyTorch FSDP2), for inference.

    Call it on every rank with the same module, then give every rank its own images: only the block that computes and
    the one after it are ever whole on a device.

    Args:
        module: A ViT, in place.
        mesh: One-dimensional mesh of the devices.
    """
    from torch.distributed.fsdp import fully_shard

    for block in module.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    # the tokens come from forward_features, which FSDP has to be told of
    torch.distributed.fsdp.register_fsdp_forward_method(module, "forward_features")
    torch.distributed.fsdp.register_fsdp_forward_method(module, "forward_intermediates")
    return module


def check_fits(module: nn.Module, device: torch.device, dtype: torch.dtype, name: str) -> None:
    """Refuse weights that the device has no room for, before it thrashes or dies.

    Raises:
        InputError: When there is less free memory.
    """
    needed = sum(p.numel() for p in module.parameters()) * dtype.itemsize
    free = free_bytes(device)
    if needed > free:
        other = "; --precision bf16 halves it" if dtype == torch.float32 else ""
        raise InputError(
            f"the weights of {name} need {needed / GIB:.1f} GiB and {device} has {free / GIB:.1f} free{other}; take a "
            "larger machine or shard it (docs/models.md)"
        )


def free_bytes(device: torch.device) -> int:
    """Free memory of a device."""
    return int(torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available)
