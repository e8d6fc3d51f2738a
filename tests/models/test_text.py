import sys

import pytest
import torch

from vesalius.core.errors import ModelError, PromptError
from vesalius.models.text import TextConfig, Tokenizer, sentence, text_encoder, tokenizer_files
from words import LETTERS, TEXT, write_tokenizer

START, END = TEXT.vocabulary - 2, TEXT.vocabulary - 1


@pytest.fixture
def folder(tmp_path):
    write_tokenizer(tmp_path)
    return tmp_path


def spelled(text):
    """Tokens of a sentence of letters: the last of a word has its own."""
    out = []
    for word in text.lower().replace(".", " .").split():
        out += [LETTERS.index(letter) for letter in word[:-1]] + [LETTERS.index(word[-1]) + len(LETTERS)]
    return [START, *out, END]


@pytest.mark.parametrize("target", ["Left_Kidney", "left kidney", " LEFT -  kidney\n"])
def test_the_sentence_is_the_published_one(target):
    assert sentence(target) == "A segmentation area of a left kidney."


def test_tokens_are_those_of_the_files(folder):
    tokens = Tokenizer(folder, TEXT)([sentence("liver"), sentence("gallbladder")])
    long = spelled("A segmentation area of a gallbladder.")
    short = spelled("A segmentation area of a liver.")
    assert tokens.tolist() == [short + [END] * (len(long) - len(short)), long]
    assert tokens.dtype == torch.int64


def test_saved_files_give_the_same(folder, tmp_path):
    tokenizer = Tokenizer(folder, TEXT)
    other = tmp_path / "other"
    other.mkdir()
    tokenizer.save(other)
    assert (other / "tokenizer.json") in tokenizer_files(other)
    again = Tokenizer(other, TEXT)([sentence("liver")])
    torch.testing.assert_close(again, tokenizer([sentence("liver")]))


def test_what_comes_after_the_end_changes_nothing():
    torch.manual_seed(0)
    encoder = text_encoder(TEXT).eval()
    tokens = torch.tensor([[START, 3, 9, END]])
    with torch.no_grad():
        alone = encoder(input_ids=tokens).pooler_output
        filled = encoder(input_ids=torch.tensor([[START, 3, 9, END, END, END]])).pooler_output
        other = encoder(input_ids=torch.tensor([[START, 9, 3, END]])).pooler_output
    torch.testing.assert_close(filled, alone)
    assert alone.shape == (1, TEXT.width)
    assert not torch.allclose(other, alone, atol=1e-3)


def test_a_long_name_is_refused(folder):
    with pytest.raises(PromptError, match=r"90 tokens, the network takes 77"):
        Tokenizer(folder, TEXT)(["a" * 88])


def test_files_that_are_missing_broken_or_of_another_encoder(tmp_path, folder):
    with pytest.raises(ModelError, match=r"has no tokenizer; get it once: hf download"):
        Tokenizer(tmp_path / "none", TEXT)
    with pytest.raises(ModelError, match=r"start and end by 74 and 75, the network by 49406 and 49407"):
        Tokenizer(folder, TextConfig())
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer cannot be read"):
        Tokenizer(folder, TEXT)


def test_without_transformers_the_error_says_what_to_install(monkeypatch, tmp_path):
    from vesalius.models.checkpoint import load_checkpoint, save_checkpoint
    from words import imis

    save_checkpoint(imis(), tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"need the package transformers; pip install vesalius\[text\]"):
        load_checkpoint(tmp_path)
