"""Sharded tensors: the student's weights, moments and moving average cut over ranks (FSDP2).

The whole network is one unit: its weights are gathered once a step, in bf16, and what is eight times as large (float32
weights, gradients, two moments, the moving average) stays cut. The teachers' working copies are whole on every rank.
"""

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils import _pytree

from pretrain.network.network import Scores

_pytree.register_dataclass(Scores)  # so that FSDP finds the tensors whose gradients it waits for


def shard(network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Cut a network's float32 parameters over all ranks in place; it computes in ``dtype`` and reduces in float32."""
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    fully_shard(network, mesh=mesh, mp_policy=policy, reshard_after_forward=False)


def whole(tensor: Tensor) -> Tensor:
    """The uncut tensor; every rank must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed_like(value: Tensor, reference: Tensor) -> Tensor:
    """A whole tensor cut as ``reference`` is."""
    if not isinstance(reference, DTensor):
        return value
    return distribute_tensor(value.to(reference.device), reference.device_mesh, reference.placements)
