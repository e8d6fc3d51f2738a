import string

import pytest

from vesalius.core.errors import ModelError
from vesalius.models import registry
from vesalius.models.presets import PRESETS


def test_every_entry_says_what_it_is_and_where():
    for name, entry in registry.entries().items():
        assert entry.page.startswith("https://"), name
        # Either an address, with something to verify what comes, or words that say what to do.
        assert (entry.url is not None) == (entry.how is None), name
        if entry.url is not None:
            assert entry.file is not None, name
            assert entry.file in entry.url, name
            assert entry.sha256 or entry.md5, name
        assert entry.preset is None or entry.preset in PRESETS, name
        for digest, length in ((entry.sha256, 64), (entry.md5, 32)):
            assert digest is None or (len(digest) == length and set(digest) <= set(string.hexdigits.lower())), name


def test_names_and_digests_find_entries():
    entry = registry.entry("sam-vit-b")
    assert entry.preset == "sam"
    assert registry.by_digest(entry.sha256) == ("sam-vit-b", entry)
    assert registry.by_digest("0" * 64) is None
    with pytest.raises(ModelError, match=r"no model 'sam-vit-x'.*sam-vit-b"):
        registry.entry("sam-vit-x")


def test_the_cache_is_the_users_or_the_one_that_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("VESALIUS_CACHE", raising=False)
    assert registry.cache_folder().name == "vesalius"
    monkeypatch.setenv("VESALIUS_CACHE", str(tmp_path))
    assert registry.model_folder("medsam") == tmp_path / "models" / "medsam"
