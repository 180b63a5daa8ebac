"""The plain training loop that `pretrain` is measured against: what one writes first, with nothing tuned.

bf16 autocast over float32 weights, PyTorch's own choice of attention kernel, every crop in a forward pass of its own,
heads on every token, AdamW and the EMA teacher parameter by parameter. DINO, iBOT and KoLeo, as in DINOv2.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geodino.backbones.architecture import create_module
from pretrain.data.batches import Batch


class PlainLoop:
    """A student, a teacher and a step.

    Args:
        architecture: timm name.
        prototypes: Of each head.
        hidden: Width of the heads.
        bottleneck: Of the heads.
        layer_scale: First value of LayerScale.
    """

    def __init__(
        self, architecture: str, prototypes: int, hidden: int = 512, bottleneck: int = 128, layer_scale: float = 0.2
    ) -> None:
        self.student: Any = nn.ModuleDict({"backbone": create_module(architecture, 3, init_values=layer_scale)})
        dim = self.student.backbone.num_features
        for name in ("dino", "ibot"):
            self.student[name] = nn.ModuleList(
                [
                    nn.Sequential(
                        nn.Linear(dim, hidden),
                        nn.GELU(),
                        nn.Linear(hidden, hidden),
                        nn.GELU(),
                        nn.Linear(hidden, bottleneck),
                    ),
                    nn.Linear(bottleneck, prototypes, bias=False),
                ]
            )
        self.mask_token = nn.Parameter(torch.zeros(dim))
        self.teacher: Any = copy.deepcopy(self.student).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW([*self.student.parameters(), self.mask_token], lr=1e-3, weight_decay=0.04)

    def _tokens(self, network: Any, pixels: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor]:
        model = network.backbone
        embedded = model.patch_embed(pixels)
        if masks is not None:
            grid = masks.view(len(masks), *embedded.shape[1:3], 1)
            embedded = torch.where(grid, self.mask_token.to(embedded.dtype), embedded)
        tokens, rope = model._pos_embed(embedded)
        for block in model.blocks:
            tokens = block(tokens, rope=rope)
        tokens = model.norm(tokens)
        return tokens[:, 0], tokens[:, model.num_prefix_tokens :]

    @staticmethod
    def _scores(head: Any, tokens: Tensor) -> Tensor:
        return head[1](F.normalize(head[0](tokens), dim=-1)).float()

    @staticmethod
    @torch.no_grad()
    def _balanced(logits: Tensor) -> Tensor:
        matrix = torch.exp(logits / 0.05).T
        matrix /= matrix.sum()
        for _ in range(3):
            matrix /= matrix.sum(1, keepdim=True)
            matrix /= matrix.shape[0]
            matrix /= matrix.sum(0, keepdim=True)
            matrix /= matrix.shape[1]
        return (matrix * matrix.shape[1]).T

    @torch.no_grad()
    def targets(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """Teacher distributions of the CLS tokens of each global crop, and of the masked patches."""
        masked, classes, patches = batch.masks, [], []
        assert masked is not None
        with torch.autocast("cpu", torch.bfloat16):
            for view in batch.globals_:
                cls, tokens = self._tokens(self.teacher, view, None)
                classes.append(self._scores(self.teacher.dino, cls))
                patches.append(self._scores(self.teacher.ibot, tokens))
        both = self._balanced(torch.cat(classes))
        return list(both.chunk(len(classes))), self._balanced(torch.cat(patches)[masked])

    def losses(self, batch: Batch, targets: tuple[list[Tensor], Tensor]) -> Tensor:
        """Sum of the losses."""
        masks = batch.masks
        assert masks is not None
        crops = len(batch.globals_)
        with torch.autocast("cpu", torch.bfloat16):
            seen = [
                self._tokens(self.student, view, part)
                for view, part in zip(batch.globals_, masks.chunk(crops), strict=True)
            ]
            small = [self._tokens(self.student, view, None)[0] for view in batch.locals_]
            scores = [self._scores(self.student.dino, cls) for cls, _ in seen]
            local = [self._scores(self.student.dino, cls) for cls in small]
            patches = torch.cat([self._scores(self.student.ibot, tokens) for _, tokens in seen])[masks]
        terms = [
            -(target * F.log_softmax(score / 0.1, -1)).sum(-1).mean()
            for s, score in enumerate([*scores, *local])
            for t, target in enumerate(targets[0])
            if s != t
        ]
        weights = (1 / masks.sum(1).clamp(min=1).float())[:, None].expand_as(masks)[masks]
        ibot = -((targets[1] * F.log_softmax(patches / 0.1, -1)).sum(-1) * weights).sum() / len(masks)
        koleo = torch.stack([self._koleo(cls) for cls, _ in seen]).sum()
        return torch.stack(terms).mean() + ibot + 0.1 * koleo

    @staticmethod
    def _koleo(features: Tensor) -> Tensor:
        unit = F.normalize(features.float(), dim=-1)
        similarity = unit @ unit.T
        similarity.fill_diagonal_(-2)
        return -torch.log((unit - unit[similarity.argmax(1)]).norm(dim=-1) + 1e-8).mean()

    def step(self, batch: Batch) -> float:
        """One optimiser step."""
        loss = self.losses(batch, self.targets(batch))
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 3.0)
        self.optimizer.step()
        with torch.no_grad():
            for old, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                old.mul_(0.98).add_(new, alpha=0.02)
        return float(loss)
