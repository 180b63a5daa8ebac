"""Memory of a backbone before it is loaded: planned on the meta device, where seven billion parameters weigh nothing.

Weights load without a second copy: tensors are mapped from the file, become the parameters of a module made on the
meta device, and are cast one by one. What has to fit is therefore the weights in the arithmetic asked for, plus the
activations of a batch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from geodino.backbones.architecture import create_module, patch_size_of
from tiles.errors import InputError

GIB = 2**30


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that inference with a backbone needs on each device.

    Attributes:
        parameters: Number of parameters.
        weights: All weights.
        shard: A device's part of the weights; all of them on one device.
        gathered: The largest block, whole on every device while it computes; 0 on one device.
        activations: The widest step of a batch: the MLP's hidden layer beside its input and three projections.
    """

    parameters: int
    weights: int
    shard: int
    gathered: int
    activations: int

    @property
    def device(self) -> int:
        """What each device has to hold."""
        return self.shard + 2 * self.gathered + self.activations  # one block computes while the next is gathered


def plan(
    architecture: str,
    *,
    side: int = 256,
    batch: int = 1,
    dtype: torch.dtype = torch.bfloat16,
    devices: int = 1,
    **model_args: Any,
) -> MemoryPlan:
    """Plan the memory of a ViT's inference without making any of it.

    Args:
        architecture: timm name.
        side: Side of the images in pixels.
        batch: Images at once.
        dtype: Arithmetic.
        devices: Over how many the blocks are sharded.
        **model_args: Further arguments of ``timm.create_model``.

    Raises:
        InputError: When the architecture is not a ViT.
    """
    with torch.device("meta"):
        module = create_module(architecture, 3, **model_args)
    if not hasattr(module, "blocks"):
        raise InputError(f"{architecture} has no transformer blocks to plan or shard; it fits one device")
    size = dtype.itemsize
    parameters = sum(p.numel() for p in module.parameters())
    block = max(sum(p.numel() for p in one.parameters()) for one in module.blocks)
    tokens = (side // patch_size_of(module)) ** 2 + module.num_prefix_tokens
    hidden = max(p.shape[0] for name, p in module.blocks[0].named_parameters() if "mlp" in name)
    gates = 2 if hasattr(module.blocks[0].mlp, "fc1_g") else 1
    widest = gates * hidden + 4 * module.num_features
    return MemoryPlan(
        parameters=parameters,
        weights=parameters * size,
        shard=-(-parameters // devices) * size,
        gathered=block * size if devices > 1 else 0,
        activations=batch * tokens * widest * size,
    )


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
        InputError: When free memory is known and too small.
    """
    needed = sum(p.numel() for p in module.parameters()) * dtype.itemsize
    free = free_bytes(device)
    if free is not None and needed > free:
        other = "; --precision bf16 halves it" if dtype == torch.float32 else ""
        raise InputError(
            f"the weights of {name} need {needed / GIB:.1f} GiB and {device} has {free / GIB:.1f} free{other}; take a "
            "larger machine or shard it (docs/models.md)"
        )


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a device; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    available = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if available is None else int(available) * 1024
