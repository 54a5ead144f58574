import torch
from hypothesis import given
from hypothesis import strategies as st

from examples.fewshot.data.episodes import EpisodeSampler
from examples.fewshot.pools import choose_episodes, draw_pools
from examples.fewshot.settings import Settings
from tests.examples.fewshot.numbered import make_classes, tags

SEEDS = st.integers(0, 2**32)
G, P, R = 2, 5, 4  # pools, classes of a pool, images of each class


def test_a_pool_holds_distinct_images_class_by_class():
    classes = make_classes((6,) * 10)
    sampler = EpisodeSampler(classes, n_way=P, k_shot=R, n_query=1, seed=0, augment=False)
    pools = draw_pools(sampler, first=3 * G, pools=G)
    assert pools.shape == (G, P, R, 1, 28, 28)

    kinds, positions = tags(pools)
    assert torch.equal(kinds, sampler.batch(3 * G, G).classes.unsqueeze(2).expand(G, P, R))
    assert all(len(set(pool.flatten().tolist())) == P * R for pool in 6 * kinds + positions)


def draw(seed: int = 0, step: int = 0, n_way=3, k_shot=2, queries=4) -> tuple[torch.Tensor, ...]:
    sizes = {"pools": G, "pool_classes": P, "pool_images": R, "batch_size": 8}
    asked = {"n_way": n_way, "k_shot": k_shot, "queries": queries, "seed": seed}
    chosen = choose_episodes(Settings(**sizes, **asked), step)
    return tuple(chosen[name] for name in ("support", "support_labels", "query", "query_labels"))


@given(SEEDS, SEEDS, st.integers(1, P), st.integers(1, R - 1), st.integers(1, 9))
def test_an_episode_of_a_pool_is_a_fair_one(seed, step, n_way, k_shot, queries):
    queries = min(queries, n_way * (R - k_shot))
    support, support_labels, query, query_labels = draw(seed, step, n_way, k_shot, queries)
    assert support.shape == (8, n_way * k_shot)
    assert query.shape == (8, queries)
    for episode in range(8):
        images = torch.cat([support[episode], query[episode]])
        labels = torch.cat([support_labels[episode], query_labels[episode]])
        assert len(set(images.tolist())) == len(images), "an image is used twice"
        assert set((images // (P * R)).tolist()) == {episode // 4}, "not of its own pool"
        assert support_labels[episode].bincount(minlength=n_way).tolist() == [k_shot] * n_way
        classes = set(zip(labels.tolist(), (images // R).tolist(), strict=True))
        assert len(classes) == len(dict(classes)) == n_way, "not one class for each label"
        assert len({c for _, c in classes}) == n_way


def test_episodes_are_a_function_of_seed_and_step():
    for one, other in zip(draw(1, 2), draw(1, 2), strict=True):
        assert torch.equal(one, other)
    for other in (draw(1, 3), draw(2, 2)):
        assert not torch.equal(draw(1, 2)[0], other[0])
    assert len({tuple(labels) for labels in draw()[1].tolist()}) > 1, "the support comes in one order"


def test_every_class_and_image_gets_its_turn():
    seen = torch.cat([draw(step=step)[2].flatten() for step in range(20)])
    assert set(seen.tolist()) == set(range(G * P * R))
