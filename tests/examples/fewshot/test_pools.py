import numpy as np
import torch

from examples.fewshot.data.classes import ImageClasses
from examples.fewshot.data.episodes import EpisodeSampler
from examples.fewshot.pools import choose_episodes, draw_pools

G, P, R = 2, 5, 4  # pools, classes of a pool, images of each class


def numbered_classes() -> ImageClasses:
    """Ten classes of six images; every pixel of image i has the value i."""
    numbers = np.arange(60, dtype=np.uint8)
    return ImageClasses(
        images=np.tile(numbers[:, None, None, None], (1, 1, 28, 28)),
        offsets=np.arange(0, 61, 6),
        names=tuple("abcdefghij"),
        alphabets=("LATIN",) * 10,
    )


def test_a_pool_holds_distinct_images_class_by_class():
    classes = numbered_classes()
    sampler = EpisodeSampler(classes, n_way=P, k_shot=R, n_query=1, seed=0, augment=False)
    pools = draw_pools(sampler, first=3 * G, pools=G)
    assert pools.shape == (G, P, R, 1, 28, 28)

    numbers = (255 * pools[..., 0, 0, 0]).round().int()
    drawn = sampler.batch(3 * G, G).classes
    assert torch.equal(numbers // 6, drawn.int().unsqueeze(2).expand(G, P, R))
    assert all(len(set(pool.flatten().tolist())) == P * R for pool in numbers)


def draw(seed: int = 0, step: int = 0) -> tuple[torch.Tensor, ...]:
    chosen = choose_episodes(
        pools=G,
        pool_classes=P,
        pool_images=R,
        episodes=8,
        n_way=3,
        k_shot=2,
        queries=4,
        seed=seed,
        step=step,
    )
    fields = (chosen.support, chosen.support_labels, chosen.query, chosen.query_labels)
    return tuple(map(torch.from_numpy, fields))


def test_an_episode_of_a_pool_is_a_fair_one():
    support, support_labels, query, query_labels = draw()
    assert support.shape == (8, 6)
    assert query.shape == (8, 4)
    orders = set()
    for episode in range(8):
        shown = support[episode].tolist()
        asked = query[episode].tolist()
        assert len({*shown, *asked}) == 10, "an image is used twice"
        assert {n // (P * R) for n in shown + asked} == {episode // 4}, "not of its own pool"
        labels = support_labels[episode].tolist()
        assert sorted(labels) == [0, 0, 1, 1, 2, 2]
        orders.add(tuple(labels))
        class_of = {label: number // R for label, number in zip(labels, shown, strict=True)}
        assert len(set(class_of.values())) == 3
        labels += query_labels[episode].tolist()
        assert [class_of[label] for label in labels] == [n // R for n in shown + asked]
    assert len(orders) > 1, "the support always comes in the same order"


def test_episodes_are_a_function_of_seed_and_step():
    for one, other in zip(draw(1, 2), draw(1, 2), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(draw(1, 2)[0], draw(1, 3)[0])
    assert not torch.equal(draw(1, 2)[0], draw(2, 2)[0])


def test_every_class_and_image_gets_its_turn():
    seen = torch.cat([draw(step=step)[2].flatten() for step in range(20)])
    assert set(seen.tolist()) == set(range(G * P * R))
