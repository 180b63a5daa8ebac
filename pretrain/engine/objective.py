"""From crops to one number: targets of the teachers, scores of the student, weighted sum of the losses.

Statistics over the batch (Sinkhorn-Knopp, means over pairs) always span the whole batch of a step: all ranks and all
micro-batches. So a batch cut in pieces gives the losses and the gradients of the uncut one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pretrain.data.batches import Batch
from pretrain.losses.cross_entropy import dino_loss, ibot_loss, pair_weight
from pretrain.losses.gram import gram_loss, kept_pairs
from pretrain.losses.koleo import koleo_loss, neighboured
from pretrain.losses.targets import sinkhorn_knopp, softmax_center, updated_center
from pretrain.network.encode import TokenBatch, downsampled_tokens, encode
from pretrain.network.network import Network, Scores
from pretrain.ranks import Ranks
from pretrain.recipes.recipe import Recipe


@dataclass(frozen=True)
class Targets:
    """What the teacher says about a micro-batch.

    Attributes:
        dino: ``[G, B, K]`` float32 distributions.
        ibot: ``[M, K']`` float32 distributions at the masked patches; None without iBOT.
    """

    dino: Tensor
    ibot: Tensor | None


@dataclass
class Centers:
    """Running means of teacher logits ``[K]`` and ``[K']``, for softmax centring."""

    dino: Tensor
    ibot: Tensor | None


@dataclass(frozen=True)
class Totals:
    """Divisors of the means of a step, shared by its micro-batches and ranks.

    Attributes:
        dino_global, dino_local, gram: Scalars.
        koleo: ``[G]``, one a global crop.

    None where a micro-batch's own divisor is that of the step.
    """

    dino_global: Tensor | float
    dino_local: Tensor | float
    koleo: Tensor | None
    gram: Tensor | float | None


class Objective:
    """The losses of a recipe.

    Args:
        recipe: Of the run.
        ranks: Processes that share the batch.
        patch: Pixels a side of a token.
    """

    def __init__(self, recipe: Recipe, ranks: Ranks, patch: int) -> None:
        self.recipe, self.ranks, self.patch = recipe, ranks, patch

    @torch.no_grad()
    def targets(
        self, teacher: Network, batches: Sequence[Batch], temperature: float, centers: Centers
    ) -> list[Targets]:
        """Targets for all micro-batches of a step together.

        Args:
            teacher: The EMA teacher, in evaluation mode; it sees the global crops whole.
            batches: Micro-batches.
            temperature: Teacher temperature of the step.
            centers: Used and moved when the recipe centres by softmax.
        """
        dino, ibot, counts = [], [], []
        for batch in batches:
            tokens = teacher.tokens(torch.cat(batch.globals_))
            dino.append(teacher.dino_head(tokens.cls))
            if teacher.ibot_head is not None and batch.masked is not None:
                ibot.append(teacher.ibot_head(tokens.patches.flatten(0, 1)[batch.masked]))
                counts.append(len(batch.masked))
        count = len(batches[0].globals_)
        rows = None
        if not all(batch.all_valid for batch in batches):
            rows = torch.cat([batch.global_weights.flatten() for batch in batches])
        split_dino = self._distributions(torch.cat(dino), temperature, centers, "dino", rows).chunk(len(batches))
        split_ibot: Sequence[Tensor | None] = [None] * len(batches)
        if ibot:
            split_ibot = torch.split(self._distributions(torch.cat(ibot), temperature, centers, "ibot", None), counts)
        return [Targets(d.reshape(count, -1, d.shape[-1]), i) for d, i in zip(split_dino, split_ibot, strict=True)]

    def _distributions(
        self, logits: Tensor, temperature: float, centers: Centers, head: str, weights: Tensor | None
    ) -> Tensor:
        if self.recipe.teacher.centering == "softmax":
            center = cast(Tensor, getattr(centers, head))
            result = softmax_center(logits, center, temperature)
            momentum = self.recipe.teacher.center_momentum
            shown = logits if weights is None else logits[weights > 0]
            setattr(centers, head, updated_center(center, shown, momentum, self.ranks))
            return result
        if weights is None:
            return sinkhorn_knopp(logits, temperature, ranks=self.ranks)
        # Crops without ground must not take their share of the prototypes.
        shown = weights > 0
        result = torch.zeros_like(logits, dtype=torch.float32)
        result[shown] = sinkhorn_knopp(logits[shown], temperature, ranks=self.ranks)
        return result

    def totals(self, batches: Sequence[Batch]) -> Totals:
        """Divisors for the micro-batches of a step."""
        crops = len(batches[0].globals_)
        own = self.recipe.dino.ignore_diagonal
        everything = all(batch.all_valid for batch in batches)

        def mean(values: list[Tensor | float]) -> Tensor | float:
            if everything and self.ranks.world == 1:
                return sum(float(value) for value in values) / len(values)
            device = batches[0].valid.device
            return self.ranks.mean(torch.stack([torch.as_tensor(v, device=device) for v in values]).mean())

        between, local, pairs = [], [], []
        for batch in batches:
            weights = None if everything else batch.global_weights
            between.append(pair_weight(crops, crops, batch.size, own, weights, weights))
            if batch.locals_:
                small = None if everything else batch.local_weights
                local.append(pair_weight(crops, len(batch.locals_), batch.size, False, weights, small))
            keep = self._gram_tokens(batch)
            if keep is None and self.recipe.uses_gram and not everything:
                keep = batch.valid  # a whole micro-batch beside one with gaps
            if keep is not None:
                pairs.append(kept_pairs(keep).clamp(min=1))
        koleo = None if everything and self.ranks.world == 1 else self._mean_neighboured(batches)
        return Totals(
            mean(between),
            mean(local) if local else 1.0,
            koleo,
            self.ranks.mean(torch.stack(pairs).mean()) if pairs else None,
        )

    def _mean_neighboured(self, batches: Sequence[Batch]) -> Tensor | None:
        """Samples ``[G]`` that KoLeo counts in a micro-batch of all ranks, on average."""
        settings = self.recipe.koleo
        if not settings.weight or len(batches) == 1:
            return None
        kept = [self.ranks.gather((batch.global_weights > 0).float().mT) for batch in batches]
        counts = torch.stack([neighboured(keep, settings.group) for keep in kept])
        return counts.sum(0).clamp(min=1) / len(batches)

    def losses(
        self, scores: Scores, targets: Targets, batch: Batch, totals: Totals, gram: nn.Module | None
    ) -> dict[str, Tensor]:
        """Unweighted losses of a micro-batch, by name.

        Args:
            scores: Of the student.
            targets: Of the teacher.
            batch: The micro-batch.
            totals: Of the step.
            gram: Backbone of the Gram teacher, or None where the term is off.
        """
        recipe = self.recipe
        weights = None if batch.all_valid else batch.global_weights
        found = {
            "dino_global": dino_loss(
                targets.dino,
                scores.dino_global,
                recipe.dino.student_temperature,
                ignore_diagonal=recipe.dino.ignore_diagonal,
                target_weights=weights,
                weights=weights,
                total=totals.dino_global,
            )
        }
        if scores.dino_local is not None:
            found["dino_local"] = dino_loss(
                targets.dino,
                scores.dino_local,
                recipe.dino.student_temperature,
                target_weights=weights,
                weights=None if batch.all_valid else batch.local_weights,
                total=totals.dino_local,
            )
        if scores.ibot is not None and targets.ibot is not None and batch.mask_weights is not None:
            images = len(batch.globals_) * batch.size
            found["ibot"] = ibot_loss(
                targets.ibot, scores.ibot, recipe.ibot.student_temperature, batch.mask_weights, images
            )
        if recipe.koleo.weight:
            # Every rank must take part in the same exchanges, also the one whose own crops are all of valid ground.
            keep = None if batch.all_valid and self.ranks.world == 1 else batch.global_weights > 0
            each = [
                koleo_loss(
                    cls,
                    recipe.koleo.group,
                    self.ranks,
                    keep=None if keep is None else keep[crop],
                    total=None if totals.koleo is None else totals.koleo[crop],
                )
                for crop, cls in enumerate(scores.cls_global)
            ]
            found["koleo"] = torch.stack(each).sum()
        if gram is not None:
            found["gram"] = self._gram(scores, batch, totals, gram)
        return found

    def total(self, losses: dict[str, Tensor], step: int) -> Tensor:
        """The weighted sum: DINO pairs in proportion to their number, local ones times their own weight."""
        recipe = self.recipe
        crops, small = recipe.crops.global_count, recipe.crops.local_count
        between = crops * (crops - 1 if recipe.dino.ignore_diagonal else crops)
        pairs = between + crops * small
        local_weight = recipe.dino.local_weight.at(step, recipe.max_steps)
        factors = {
            "dino_global": recipe.dino.weight * between / pairs,
            "dino_local": recipe.dino.weight * local_weight * crops * small / pairs,
            "ibot": recipe.ibot.weight,
            "koleo": recipe.koleo.weight,
            "gram": recipe.gram.weight.at(step, recipe.max_steps),
        }
        return torch.stack([loss * factors[name] for name, loss in losses.items()]).sum()

    def _gram_tokens(self, batch: Batch) -> Tensor | None:
        """Tokens ``[G*B, P]`` that Gram anchoring compares; None for all of them."""
        if not self.recipe.uses_gram:
            return None
        tokens = self.recipe.gram.tokens
        if tokens == "all" or batch.masks is None:
            return None if batch.all_valid and self.ranks.world == 1 else batch.valid
        return batch.valid & (batch.masks if tokens == "masked" else ~batch.masks)

    def _gram(self, scores: Scores, batch: Batch, totals: Totals, gram: nn.Module) -> Tensor:
        views = torch.cat(batch.grams)
        with torch.no_grad():
            tokens: TokenBatch = encode(gram, views)
        side, own = views.shape[-1] // self.patch, batch.globals_[0].shape[-1] // self.patch
        teacher = downsampled_tokens(tokens.patches, (side, side), (own, own))
        return gram_loss(
            scores.patches_global,
            teacher,
            keep=self._gram_tokens(batch),
            remove_neg=self.recipe.gram.remove_neg,
            remove_only_teacher_neg=self.recipe.gram.remove_only_teacher_neg,
            total=totals.gram,
        )
