"""Classes that are made once: what the file's name depends on, and that no damage to it does harm."""

import numpy as np
import pytest

from examples.fewshot.data.cache import cached_classes
from tests.examples.fewshot.numbered import assert_same_classes, make_classes


@pytest.fixture
def load():
    """Reads or makes some classes; `load.made` counts how often they were made."""
    classes = make_classes((2, 3, 4), side=14)

    def make():
        load.made += 1
        return classes

    def load(cache=None, depends_on=(1, "a")):
        assert_same_classes(cached_classes("letters", depends_on, make, cache), classes)

    load.made = 0
    return load


def test_a_second_load_reads_the_file(load, tmp_path):
    load(tmp_path / "new" / "folder")
    load(str(tmp_path / "new" / "folder"))
    assert load.made == 1
    (file,) = (tmp_path / "new" / "folder").iterdir()
    assert (file.name[:8], file.suffix) == ("letters-", ".npz")


def test_what_depends_on_something_else_is_another_file(load, tmp_path):
    for depends_on in ((1, "a"), (2, "a"), (1, "b"), (1, "a", None)):
        load(tmp_path, depends_on)
    assert load.made == len([*tmp_path.iterdir()]) == 4


def test_a_damaged_file_is_made_again(load, tmp_path):
    load(tmp_path)
    (file,) = tmp_path.iterdir()
    intact = file.read_bytes()
    middle = len(intact) // 2
    np.savez(file, pictures=np.zeros(3))
    flipped = intact[:middle] + bytes([intact[middle] ^ 255]) + intact[middle + 1 :]
    damages = (b"", intact[:middle], intact[:-1], b"\x00\x01" * 100, flipped, file.read_bytes())
    for made, damaged in enumerate(damages, 2):
        file.write_bytes(damaged)
        load(tmp_path)
        load(tmp_path)
        assert load.made == made, damaged


def test_an_interrupted_write_leaves_nothing(load, tmp_path, monkeypatch):
    def interrupt(file, **arrays):
        file.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_where_the_file_is(load, tmp_path, monkeypatch):
    """By default in the user's cache folder, which pooch knows on every system."""
    for name in ("SRWM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "user" / project)
    load()
    monkeypatch.setenv("SRWM_CACHE", str(tmp_path / "own"))
    load()
    load(tmp_path / "argument")
    for place in ("user/srwm", "own", "argument"):
        assert len(list((tmp_path / place).glob("letters-*.npz"))) == 1, place
    assert load.made == 3
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"load_letters: cannot write the cache file .* SRWM_CACHE"):
        load(tmp_path / "file" / "folder")
