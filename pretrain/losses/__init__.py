"""The losses of the DINO family, as functions of arrays.

Which loss pulls which way:

- **DINO cross-entropy** (``cross_entropy``) makes the CLS tokens of two views of one place choose the same prototypes;
- **iBOT** (``cross_entropy``) makes the student name, at a patch it cannot see, the prototypes that the teacher chooses
  there;
- **KoLeo** (``koleo``) pushes every CLS token away from its nearest neighbour, so that the batch fills the sphere;
- **Gram anchoring** (``gram``) holds the pairwise similarities of the patches to those of a better teacher.

``targets`` makes targets of the teacher's logits. Wherever a statistic of the whole batch enters, a
:class:`pretrain.ranks.Ranks` says how to sum it over processes, so that a batch cut over ranks gives the numbers of the
uncut one.

Sources: Caron et al. 2021 (DINO), Zhou et al. 2022 (iBOT), Sablayrolles et al. 2019 (KoLeo), Caron et al. 2020
(Sinkhorn-Knopp on prototypes), Oquab et al. 2023 (DINOv2), Siméoni et al. 2025 (DINOv3, Gram anchoring).
"""
