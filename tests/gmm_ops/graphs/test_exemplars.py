import pytest
import torch

from gmm_ops.errors import RefusedInput
from gmm_ops.graphs.exemplars import Exemplars
from tests.references.exemplars import exemplars as slow_exemplars


def _maps(seed, n=17, height=5, width=4, n_words=6):
    generator = torch.Generator().manual_seed(seed)
    word = torch.randint(-1, n_words, (n, height, width), generator=generator)
    # Coarse values, so that posterior and log-likelihood tie often.
    posterior = torch.randint(0, 4, word.shape, generator=generator) / 4
    log_joint = torch.randint(-3, 0, word.shape, generator=generator).float()
    images = torch.randperm(100, generator=generator)[:n]
    return word, posterior, log_joint, images


def _as_dict(found):
    rows = {}
    for word, *rest in zip(found.word, found.image, found.y, found.x, found.posterior, found.log_joint, strict=True):
        rows.setdefault(int(word), []).append(tuple(value.item() for value in rest))
    return rows


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_slow_twin(seed):
    word, posterior, log_joint, images = _maps(seed)
    found = Exemplars.from_batch(word, posterior, log_joint, images, per_word=4)
    slow = slow_exemplars(word.tolist(), posterior.tolist(), log_joint.tolist(), images.tolist(), 4)
    assert _as_dict(found) == slow
    assert found.rank().max() < 4


@pytest.mark.parametrize("cut", [0, 1, 8, 17])
def test_any_split_and_order_gives_the_same(cut):
    word, posterior, log_joint, images = _maps(3)
    whole = Exemplars.from_batch(word, posterior, log_joint, images)
    parts = [
        Exemplars.from_batch(word[part], posterior[part], log_joint[part], images[part])
        for part in (slice(cut, None), slice(0, cut))
    ]
    merged = Exemplars.zero().merge(parts[0]).merge(parts[1])
    assert _as_dict(merged) == _as_dict(whole)


def test_refuses_shapes_that_disagree():
    word, posterior, log_joint, images = _maps(0)
    with pytest.raises(RefusedInput, match=r"must have one shape \(N, H, W\)"):
        Exemplars.from_batch(word, posterior[:2], log_joint, images)
    with pytest.raises(RefusedInput, match="per_word: must be the same in what is merged, got 3 and 4"):
        Exemplars.zero(3).merge(Exemplars.zero(4))
