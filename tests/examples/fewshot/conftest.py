"""Small classes of pictures that need no rendering, settings to train on them, and a server of files."""

import dataclasses
import functools
import http.server
import threading
from pathlib import Path

import numpy as np
import pytest

from examples.fewshot.data.classes import ImageClasses, Splits
from examples.fewshot.settings import Settings


def patterns(count: int, per_class: int, seed: int) -> ImageClasses:
    """Classes that a small network tells apart: a coarse random pattern each, dimmed at random."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((count, 1, 7, 7)) < 0.4
    levels = rng.uniform(150, 255, (count, per_class, 1, 1))
    images = np.kron(coarse * levels, np.ones((4, 4))).astype(np.uint8)
    names = [f"SCRIPT LETTER {c}" for c in range(count)]
    return ImageClasses.of_sizes(
        images.reshape(-1, 1, 28, 28), [per_class] * count, names, ["SCRIPT"] * count
    )


DOMAINS = [
    Splits(train=patterns(12, 6, seed), validation=patterns(8, 6, seed + 1), test=patterns(8, 6, seed + 2))
    for seed in (0, 3, 6)
]
TINY = Settings(
    name="tiny",
    n_way=3,
    n_layers=1,
    n_heads=2,
    d_model=16,
    ff_factor=2,
    encoder_channels=8,
    dropout=0.1,
    encoder_warmup_steps=4,
    encoder_warmup_classes=8,
    steps=6,
    pool_classes=6,
    pool_images=3,
    batch_size=8,
    queries=4,
    report_every=2,
    validate_every=3,
    validation_episodes=6,
    test_episodes=12,
    test_queries=2,
)


@pytest.fixture(scope="session")
def splits() -> Splits:
    return DOMAINS[0]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return dataclasses.replace(TINY, runs=tmp_path)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """An HTTP server on loopback for the folder ``served``, past any proxy."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        httpd.folder, httpd.url = folder, f"http://127.0.0.1:{httpd.server_port}"
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()
