"""Classes that are made once: what the file's name depends on, and that no damage to it does harm."""

import numpy as np
import pytest

from examples.fewshot.data.cache import cached_classes
from tests.examples.fewshot.numbered import assert_same_classes, make_classes


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Reads or makes some classes; `load.made` counts how often they were made."""
    monkeypatch.setenv("SRWM_CACHE", str(tmp_path))
    classes = make_classes((2, 3, 4), side=14)

    def make():
        load.made += 1
        return classes

    def load():
        assert_same_classes(cached_classes("letters", (1, "a"), make), classes)

    load.made = 0
    return load


def test_a_damaged_file_is_made_again(load, tmp_path):
    load()
    (file,) = tmp_path.iterdir()
    intact = file.read_bytes()
    middle = len(intact) // 2
    np.savez(file, pictures=np.zeros(3))
    flipped = intact[:middle] + bytes([intact[middle] ^ 255]) + intact[middle + 1 :]
    damages = (b"", intact[:middle], intact[:-1], b"\x00\x01" * 100, flipped, file.read_bytes())
    for made, damaged in enumerate(damages, 2):
        file.write_bytes(damaged)
        load()
        load()
        assert load.made == made, damaged


def test_an_interrupted_write_leaves_nothing(load, tmp_path, monkeypatch):
    def interrupt(file, **arrays):
        file.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load()
    assert list(tmp_path.iterdir()) == []


def test_where_the_file_is(load, tmp_path, monkeypatch):
    """By default in the user's cache folder, which pooch knows on every system."""
    for name in ("SRWM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "user" / project)
    load()
    monkeypatch.setenv("SRWM_CACHE", str(tmp_path / "own"))
    load()
    for place in ("user/srwm", "own"):
        assert len(list((tmp_path / place).glob("letters-*.npz"))) == 1, place
    assert load.made == 2
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SRWM_CACHE", str(tmp_path / "file" / "folder"))
    with pytest.raises(OSError, match=r"load_letters: cannot write the cache file .* SRWM_CACHE"):
        load()
