"""The picture of a word's reading: keys, rates and matrices are those of the layer."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from examples.languages import train, trajectory
from examples.languages.model import build_reader
from examples.languages.settings import Settings
from srwm.nn import SRWM

SMALL = Settings(n_layers=2, n_heads=2, d_model=8, d_ff=8)


def test_readings_are_what_each_layer_does_step_by_step():
    torch.manual_seed(0)
    reader = build_reader(SMALL)
    tokens = torch.randint(2, (7,))
    found = trajectory.readings(reader, tokens)
    layers = [layer for layer in reader.modules() if isinstance(layer, SRWM)]
    inputs = []
    for layer in layers:
        layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0][0]))
    reader(tokens[None])
    assert [len(of_layer) for of_layer in found] == [2, 2]
    for layer, h, of_layer in zip(layers, inputs, found, strict=True):
        for head, reading in enumerate(of_layer):
            W = layer.W[head].detach()
            for t, x in enumerate(h.detach()[:, 4 * head : 4 * head + 4]):
                _, q, k, b = (x @ W).split([4, 4, 4, 4])
                q, k, b = q.softmax(0), k.softmax(0), b.sigmoid()
                rates = b.repeat_interleave(torch.tensor([4, 4, 4, 4]))
                W = W + torch.outer(k, rates * ((q - k) @ W))
                np.testing.assert_allclose(reading.keys[t], k, rtol=1e-5, atol=1e-6)
                np.testing.assert_allclose(reading.rates[t], b, rtol=1e-5, atol=1e-6)
                np.testing.assert_allclose(reading.matrices[t], W, rtol=1e-4, atol=1e-5)


def test_the_projection_is_on_the_direction_of_the_largest_movement():
    rng = np.random.default_rng(0)
    direction, along = rng.standard_normal((3, 5)), np.array([1.0, -1, 1, 2, -3])
    matrices = along[:, None, None] * direction + 1e-3 * rng.standard_normal((5, 3, 5))
    reading = trajectory.Reading(np.zeros((5, 3)), np.zeros((5, 4)), matrices)
    matrices += 5 * rng.standard_normal((3, 5))  # where they all are is no movement
    expected = (along - along.mean()) * np.linalg.norm(direction)
    projection = reading.projection * np.sign(reading.projection[0] * expected[0])
    np.testing.assert_allclose(projection, expected, atol=0.02)
    labels = (along > 0).astype(int)
    assert trajectory.separation(projection, labels) > trajectory.separation(
        projection, 1 - labels[[1, 0, 2, 3, 4]]
    )


@pytest.mark.parametrize(
    "changes", [{"core": "deltanet"}, {"residual": "pre_norm"}, {"input_softmax": True}]
)
def test_layers_that_read_something_else_are_refused(changes):
    reader = build_reader(dataclasses.replace(SMALL, **changes))
    with pytest.raises(ValueError, match="expected a run with --core srwm"):
        trajectory.readings(reader, torch.zeros(3, dtype=torch.int64))


def test_a_run_is_drawn(tmp_path, capsys):
    tiny = dataclasses.replace(
        SMALL, runs=tmp_path, steps=2, batch_size=4, validation_words=2, test_words=2, bins=(60,), threads=1
    )
    assert train.main(tiny) == 0
    for word, said in (("", ""), ("0110", "0110")):
        picture = tmp_path / "figures" / "reading.png"
        trajectory.main(trajectory.Options(tiny.folder, word, 12, picture))
        assert said in capsys.readouterr().out.splitlines()[-1]
        with Image.open(picture) as image:
            assert image.size[0] > 1000
    with pytest.raises(ValueError, match="made of 0 1"):
        trajectory.main(trajectory.Options(tiny.folder, "012", 12, picture))
