"""Each loss against a slow, obvious one written with loops from its definition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pretrain.losses.cross_entropy import cross_entropies, dino_loss, ibot_loss, pair_weight
from pretrain.losses.gram import gram_loss
from pretrain.losses.koleo import koleo_loss, neighboured
from pretrain.losses.targets import sinkhorn_knopp, softmax_center, updated_center
from pretrain.network.encode import downsampled_tokens


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def distributions(*shape: int, seed: int = 0) -> Tensor:
    return random(*shape, seed=seed).softmax(-1)


def slow_cross_entropy(target: Tensor, logits: Tensor, temperature: float) -> float:
    scaled = [float(x) / temperature for x in logits]
    log_sum = math.log(sum(math.exp(x) for x in scaled))
    return -sum(float(t) * (x - log_sum) for t, x in zip(target, scaled, strict=True))


class TestSinkhornKnopp:
    def slow(self, logits: Tensor, temperature: float, iterations: int = 3) -> list[list[float]]:
        n, k = logits.shape
        q = [[math.exp(float(logits[i, j]) / temperature) for j in range(k)] for i in range(n)]
        for _ in range(iterations):
            columns = [sum(q[i][j] for i in range(n)) for j in range(k)]
            q = [[q[i][j] / columns[j] / k for j in range(k)] for i in range(n)]
            rows = [sum(row) for row in q]
            q = [[value / rows[i] / n for value in q[i]] for i in range(n)]
        return [[value * n for value in row] for row in q]

    @pytest.mark.parametrize("shape", [(5, 3), (4, 7), (1, 4), (6, 1)])
    def test_is_the_alternating_normalisation(self, shape: tuple[int, int]) -> None:
        logits = random(*shape)
        torch.testing.assert_close(
            sinkhorn_knopp(logits, 0.3), torch.tensor(self.slow(logits, 0.3)), rtol=1e-4, atol=1e-6
        )

    @settings(deadline=None, max_examples=30)
    @given(n=st.integers(1, 12), k=st.integers(1, 12), shift=st.floats(-50, 50), seed=st.integers(0, 1000))
    def test_rows_are_distributions_and_a_constant_changes_nothing(
        self, n: int, k: int, shift: float, seed: int
    ) -> None:
        logits = random(n, k, seed=seed)
        targets = sinkhorn_knopp(logits, 0.2)
        torch.testing.assert_close(targets.sum(1), torch.ones(n))
        torch.testing.assert_close(sinkhorn_knopp(logits + shift, 0.2), targets, rtol=2e-3, atol=1e-4)

    def test_many_iterations_use_all_prototypes_equally(self) -> None:
        targets = sinkhorn_knopp(random(40, 8), 0.5, iterations=200)
        torch.testing.assert_close(targets.sum(0), torch.full((8,), 5.0), rtol=1e-3, atol=1e-3)

    def test_survives_logits_that_would_overflow(self) -> None:
        logits = random(6, 4) * 100
        targets = sinkhorn_knopp(logits, 0.04)
        assert torch.isfinite(targets).all()
        torch.testing.assert_close(targets.sum(1), torch.ones(6))

    def test_of_nothing_is_nothing(self) -> None:
        assert sinkhorn_knopp(torch.empty(0, 5), 0.1).shape == (0, 5)


def test_softmax_centring_is_the_softmax_of_the_shifted_logits() -> None:
    logits, center = random(4, 6), random(6, seed=1)
    expected = [[math.exp((float(x) - float(c)) / 0.04) for x, c in zip(row, center, strict=True)] for row in logits]
    expected = [[value / sum(row) for value in row] for row in expected]
    torch.testing.assert_close(softmax_center(logits, center, 0.04), torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_the_centre_moves_towards_the_batch_mean() -> None:
    center, logits = random(6, seed=1), random(4, 6)
    expected = [0.9 * float(c) + 0.1 * float(logits[:, j].mean()) for j, c in enumerate(center)]
    torch.testing.assert_close(updated_center(center, logits, 0.9), torch.tensor(expected))


class TestDino:
    def slow(self, targets: Tensor, logits: Tensor, skip: bool, tw: Tensor, sw: Tensor) -> float:
        total = count = 0.0
        for t in range(len(targets)):
            for s in range(len(logits)):
                if skip and s == t:
                    continue
                for b in range(targets.shape[1]):
                    weight = float(tw[t, b] * sw[s, b])
                    total += weight * slow_cross_entropy(targets[t, b], logits[s, b], 0.1)
                    count += weight
        return total / count

    @pytest.mark.parametrize("skip", [True, False])
    @pytest.mark.parametrize("crops", [2, 5])
    def test_is_the_mean_over_pairs(self, crops: int, skip: bool) -> None:
        targets, logits = distributions(2, 3, 5), random(crops, 3, 5, seed=1)
        found = dino_loss(targets, logits, 0.1, ignore_diagonal=skip)
        assert float(found) == pytest.approx(
            self.slow(targets, logits, skip, torch.ones(2, 3), torch.ones(crops, 3)), rel=1e-4
        )

    @pytest.mark.parametrize("skip", [True, False])
    def test_crops_without_ground_count_nowhere(self, skip: bool) -> None:
        targets, logits = distributions(2, 3, 5), random(2, 3, 5, seed=1)
        weights = torch.tensor([[1.0, 0, 1], [1, 1, 0]])
        found = dino_loss(targets, logits, 0.1, ignore_diagonal=skip, target_weights=weights, weights=weights)
        assert float(found) == pytest.approx(self.slow(targets, logits, skip, weights, weights), rel=1e-4)
        changed = logits.clone()
        changed[0, 1] = 99
        if not skip:
            again = dino_loss(targets, changed, 0.1, target_weights=weights, weights=weights)
            torch.testing.assert_close(again, found)

    def test_parts_of_a_batch_add_up(self) -> None:
        targets, logits = distributions(2, 4, 5), random(3, 4, 5, seed=1)
        whole = dino_loss(targets, logits, 0.1)
        total = pair_weight(2, 3, 4, False)
        parts = [dino_loss(targets[:, i : i + 2], logits[:, i : i + 2], 0.1, total=total) for i in (0, 2)]
        torch.testing.assert_close(sum(parts), whole)

    def test_uniform_targets_and_scores_give_the_logarithm_of_the_prototypes(self) -> None:
        found = dino_loss(torch.full((2, 3, 8), 1 / 8), torch.zeros(4, 3, 8), 0.1)
        assert float(found) == pytest.approx(math.log(8))

    def test_one_teacher_crop_without_the_diagonal_is_refused(self) -> None:
        with pytest.raises(ValueError, match="two teacher crops"):
            dino_loss(distributions(1, 2, 3), random(1, 2, 3), 0.1, ignore_diagonal=True)

    def test_the_gradient_is_that_of_the_definition(self) -> None:
        logits = random(4, 5).double().requires_grad_()
        targets = distributions(4, 5, seed=2).double()
        cross_entropies(targets, logits, 0.5).sum().backward()
        expected = ((logits.detach() / 0.5).softmax(-1) - targets) / 0.5
        torch.testing.assert_close(logits.grad, expected, rtol=1e-4, atol=1e-5)


def test_ibot_averages_within_an_image_and_then_over_all_images() -> None:
    # image 0 hides three patches, image 1 none, image 2 one
    targets, logits = distributions(4, 6), random(4, 6, seed=1)
    weights = torch.tensor([1 / 3, 1 / 3, 1 / 3, 1.0])
    each = [slow_cross_entropy(t, s, 0.1) for t, s in zip(targets, logits, strict=True)]
    expected = (sum(each[:3]) / 3 + 0 + each[3]) / 3
    assert float(ibot_loss(targets, logits, 0.1, weights, images=3)) == pytest.approx(expected, rel=1e-4)
    assert float(ibot_loss(targets[:0], logits[:0], 0.1, weights[:0], images=3)) == 0


class TestKoleo:
    def slow(self, features: Tensor, group: int, keep: Tensor) -> float:
        unit = [[float(x) / math.sqrt(sum(float(y) ** 2 for y in row)) for x in row] for row in features]
        logs = []
        for i in range(len(unit)):
            start = i // group * group
            others = [j for j in range(start, start + group) if j != i and keep[j]]
            if keep[i] and others:
                logs.append(math.log(min(math.dist(unit[i], unit[j]) for j in others)))
        return -sum(logs) / len(logs) if logs else 0.0

    @pytest.mark.parametrize("group", [None, 2, 4])
    def test_is_the_mean_log_distance_to_the_nearest_neighbour(self, group: int | None) -> None:
        features = random(8, 5)
        expected = self.slow(features, group or 8, torch.ones(8))
        assert float(koleo_loss(features, group)) == pytest.approx(expected, rel=1e-4)

    def test_samples_without_ground_are_nobodys_neighbour(self) -> None:
        features = random(6, 5)
        keep = torch.tensor([True, False, True, True, False, True])
        features[1] = features[4] = 1.0  # equal, as two empty crops are
        found = koleo_loss(features, keep=keep)
        assert float(found) == pytest.approx(self.slow(features, 6, keep), rel=1e-4)

    def test_a_group_of_one_or_with_one_kept_gives_zero(self) -> None:
        assert float(koleo_loss(random(1, 5))) == 0
        assert float(koleo_loss(random(3, 5), keep=torch.tensor([True, False, False]))) == 0

    def test_parts_of_a_batch_add_up(self) -> None:
        features = random(12, 5)
        keep = torch.tensor([True] * 4 + [True, False, False, False] + [True, False, True, True])
        total = neighboured(keep, 4)
        assert float(total) == 4 + 0 + 3
        parts = [koleo_loss(features[i : i + 4], keep=keep[i : i + 4], total=total) for i in (0, 4, 8)]
        torch.testing.assert_close(sum(parts), koleo_loss(features, 4, keep=keep))
        assert neighboured(torch.stack([keep, ~keep], 1)).tolist() == [8, 4]

    def test_equal_samples_keep_a_finite_gradient(self) -> None:
        features = torch.ones(4, 5, requires_grad=True)
        koleo_loss(features).backward()
        assert features.grad is not None and torch.isfinite(features.grad).all()

    def test_a_batch_that_makes_no_groups_is_refused(self) -> None:
        with pytest.raises(ValueError, match="groups of 4"):
            koleo_loss(random(6, 5), 4)


class TestGram:
    def slow(self, student: Tensor, teacher: Tensor, keep: Tensor, remove: str = "") -> float:
        def cosine(a: Tensor, b: Tensor) -> float:
            return float((a * b).sum()) / math.sqrt(float((a * a).sum())) / math.sqrt(float((b * b).sum()))

        squares = []
        for image in range(len(student)):
            places = [p for p in range(student.shape[1]) if keep[image, p]]
            for i in places:
                for j in places:
                    s, t = cosine(student[image, i], student[image, j]), cosine(teacher[image, i], teacher[image, j])
                    if remove == "neg":
                        s, t = max(s, 0.0), max(t, 0.0)
                    if remove == "teacher" and t < 0:
                        s, t = max(s, 0.0), 0.0
                    squares.append((s - t) ** 2)
        return sum(squares) / len(squares)

    @pytest.mark.parametrize("remove", ["", "neg", "teacher"])
    def test_is_the_mean_squared_difference_of_similarities(self, remove: str) -> None:
        student, teacher = random(2, 6, 4), random(2, 6, 7, seed=1)
        found = gram_loss(student, teacher, remove_neg=remove == "neg", remove_only_teacher_neg=remove == "teacher")
        assert float(found) == pytest.approx(self.slow(student, teacher, torch.ones(2, 6), remove), rel=1e-4)

    def test_clearing_the_teachers_negatives_also_clears_the_students_there(self) -> None:
        # Both call the two patches unlike; clearing the teacher's side first would leave the student's -1 to punish.
        student = torch.tensor([[[1.0, 0], [-1.0, 0]]])
        teacher = torch.tensor([[[1.0, 0], [-0.6, 0.8]]])
        assert float(gram_loss(student, teacher, remove_only_teacher_neg=True)) == 0
        assert float(gram_loss(student, teacher)) > 0

    def test_only_kept_tokens_are_compared_image_by_image(self) -> None:
        student, teacher = random(2, 6, 4), random(2, 6, 4, seed=1)
        keep = torch.tensor([[True] * 4 + [False] * 2, [False] * 3 + [True] * 3])
        found = gram_loss(student, teacher, keep=keep)
        assert float(found) == pytest.approx(self.slow(student, teacher, keep), rel=1e-4)

    def test_nothing_flows_into_the_teacher(self) -> None:
        student, teacher = random(1, 4, 3).requires_grad_(), random(1, 4, 3, seed=1).requires_grad_()
        gram_loss(student, teacher).backward()
        assert student.grad is not None and teacher.grad is None

    def test_rotating_all_features_changes_nothing(self) -> None:
        teacher = random(2, 5, 4)
        rotation, _ = torch.linalg.qr(random(4, 4, seed=3))
        assert float(gram_loss(teacher @ rotation, teacher)) == pytest.approx(0, abs=1e-10)

    def test_the_two_ways_of_removing_negatives_exclude_each_other(self) -> None:
        with pytest.raises(ValueError, match="exclude"):
            gram_loss(random(1, 2, 2), random(1, 2, 2), remove_neg=True, remove_only_teacher_neg=True)


class TestDownsampledTokens:
    def test_equal_grids_pass_through(self) -> None:
        tokens = random(2, 12, 3)
        assert downsampled_tokens(tokens, (3, 4), (3, 4)) is tokens

    def test_halving_takes_the_cubic_kernel_between_tokens(self) -> None:
        # a = -0.75, the four taps of a sample half-way between two tokens
        taps = torch.tensor([-0.09375, 0.59375, 0.59375, -0.09375])
        tokens = random(1, 64, 2)
        found = downsampled_tokens(tokens, (8, 8), (4, 4)).view(4, 4, 2)
        window = tokens.view(8, 8, 2)[1:5, 3:7]  # around the output token (1, 2)
        expected = torch.einsum("i,j,ijd->d", taps, taps, window)
        torch.testing.assert_close(found[1, 2], expected, rtol=1e-4, atol=1e-5)

    def test_a_constant_map_stays_constant(self) -> None:
        found = downsampled_tokens(torch.full((1, 81, 2), 3.0), (9, 9), (6, 6))
        torch.testing.assert_close(found, torch.full((1, 36, 2), 3.0))


@pytest.mark.parametrize("numbers", [1, 5, 12])
def test_how_many_rows_go_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch, numbers: int) -> None:
    logits, targets, center = random(7, 5), distributions(7, 5, seed=1), random(5, seed=2)

    def everything() -> list[Tensor]:
        student = logits.clone().requires_grad_()
        losses = cross_entropies(targets, student, 0.1)
        (gradient,) = torch.autograd.grad((losses * torch.arange(7)).sum(), student)
        return [sinkhorn_knopp(logits, 0.1), softmax_center(logits, center, 0.1), losses.detach(), gradient]

    whole = everything()
    monkeypatch.setattr("pretrain.losses.cross_entropy._CACHED", numbers)
    for few, all_at_once in zip(everything(), whole, strict=True):
        torch.testing.assert_close(few, all_at_once)
