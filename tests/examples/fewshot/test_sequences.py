"""Sequences of two tasks: what is shown when, what is trimmed, and that (seed, i) decides all of it."""

import collections
import itertools
from typing import get_args

import torch
from hypothesis import given
from hypothesis import strategies as st

from examples.fewshot.data.sequences import Order, SequenceSampler, UnknownLabel
from tests.examples.fewshot.numbered import make_classes, tags

N, K = 3, 4
ORDERS = get_args(Order)
FIRST, SECOND = make_classes((6,) * 5, 4), make_classes((6,) * 7, 4, first=100)


def sampler(**changes) -> SequenceSampler:
    options = {"n_way": N, "k_shot": K, "seed": 0, "augment": False, "batch_size": 8}
    return SequenceSampler(FIRST, SECOND, **(options | changes))


@st.composite
def samplers(draw, orders=ORDERS):
    """A sampler of any layout, and the number of a batch of it."""
    drawn = sampler(
        seed=draw(st.integers(0, 2**64)),
        max_trim=draw(st.integers(0, N * K - 1)),
        order=draw(st.sampled_from(orders)),
        batch_size=draw(st.integers(2, 8)),
        augment=draw(st.booleans()),
        unknown_label=draw(st.sampled_from(get_args(UnknownLabel))),
    )
    return drawn, draw(st.integers(0, 2**30))


def test_the_labels_of_the_two_tasks_are_permuted_independently():
    """Which of two classes got which label: the same in both tasks as often as not."""
    twins = make_classes((6, 6), 4)
    options = {"n_way": 2, "k_shot": 1, "seed": 0, "order": "first", "augment": False}
    drawn = SequenceSampler(twins, twins, **options).batch(0, 4000)
    kinds, _ = tags(drawn["images"])
    label_of_class_0 = torch.where(kinds == 0, drawn["labels"], 0).unflatten(1, (2, 2)).sum(2)
    pairs = collections.Counter(map(tuple, label_of_class_0.tolist()))
    order_of_classes = kinds[:, [0, 2]]
    pairs_of_orders = collections.Counter(map(tuple, order_of_classes.tolist()))
    for counts in (pairs, pairs_of_orders):
        assert len(counts) == 4
        assert all(abs(count - 1000) < 140 for count in counts.values()), counts  # 5 sd of 27


@given(samplers())
def test_the_label_shown_is_that_of_the_image_before_also_across_the_switch(drawn_sampler):
    draw, batch = drawn_sampler
    drawn = draw.batch(draw.batch_size * batch, draw.batch_size)
    assert torch.equal(drawn["shown"][:, 1:], drawn["labels"][:, :-1])
    unknown = {"class_0": 0, "nothing": -1}[draw.unknown_label]
    assert drawn["shown"][:, 0].tolist() == [unknown] * draw.batch_size
    layout = draw.layout(batch)
    [tasks] = drawn["tasks"].unique(dim=0).tolist()
    assert tasks == [task for task in layout.order for _ in range(layout.lengths[task])]


def test_trims_are_uniform_inclusive_at_both_ends_and_independent():
    layouts = [sampler(max_trim=3).layout(batch) for batch in range(1600)]
    lost = collections.Counter(tuple(N * K - length for length in layout.lengths) for layout in layouts)
    assert set(lost) == set(itertools.product(range(4), range(4)))
    assert all(abs(count - 100) < 49 for count in lost.values()), lost  # 5 sd of 9.7
    both = collections.Counter((layout.order, layout.lengths[0]) for layout in layouts)
    assert all(abs(count - 200) < 67 for count in both.values()), both  # the order too


@given(samplers(orders=["first", "second"]))
def test_a_trimmed_task_is_the_beginning_of_the_whole_one(drawn_sampler):
    draw, batch = drawn_sampler
    lengths = draw.layout(batch).lengths
    first = draw.batch_size * batch
    drawn = draw.batch(first, draw.batch_size)
    draw.max_trim = 0
    whole = draw.batch(first, draw.batch_size)
    leader = 0 if draw.order == "first" else 1
    assert drawn["labels"].shape == (draw.batch_size, sum(lengths))
    parts = [slice(lengths[leader]), slice(N * K, N * K + lengths[1 - leader])]
    for name in ("images", "labels", "tasks"):
        expected = torch.cat([whole[name][:, part] for part in parts], dim=1)
        assert torch.equal(drawn[name], expected), name


def test_orders():
    leaders = {
        order: [sampler(order=order).layout(batch).order[0] for batch in range(400)]
        for order in ("random", "alternating", "first", "second")
    }
    assert leaders["first"] == [0] * 400
    assert leaders["second"] == [1] * 400
    assert leaders["alternating"] == [0, 1] * 200
    assert 150 < sum(leaders["random"]) < 250
    assert sampler(order="alternating").batch(8, 8)["tasks"][:, 0].tolist() == [1] * 8


def test_seeds_and_sequences_differ():
    batches = (sampler().batch(0, 8), sampler(seed=1).batch(0, 8), sampler().batch(8, 8))
    assert len({image.numpy().tobytes() for drawn in batches for image in drawn["images"]}) == 24
    assert len({tuple(row) for drawn in batches for row in drawn["labels"].tolist()}) == 24
