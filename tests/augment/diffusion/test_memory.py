import sys

import pytest

from neuromix.augment.diffusion import memory


def test_glibc_keeps_its_blocks_and_others_say_nothing(monkeypatch):
    memory.keep_freed_memory.cache_clear()
    if sys.platform.startswith("linux"):
        assert memory.keep_freed_memory() in (True, False)
    for platform in ("darwin", "win32"):
        memory.keep_freed_memory.cache_clear()
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: pytest.fail("asked"))
        assert memory.keep_freed_memory() is False
    memory.keep_freed_memory.cache_clear()
