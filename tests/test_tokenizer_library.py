"""Vocabularies that are not GPT-2's kind, read from a tokenizer.json as transformers reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

import circuits
from circuits.errors import TokenError
from circuits.tokenizer import LibraryTokenizer, library_tokenizer

transformers = pytest.importorskip("transformers")

TEXTS = [
    "When Mary and John went to the store, John gave a drink to Mary.",
    " two  spaces\tand\nlines\n\n123 4567",
    "naïve café 日本語 🙂 <s> in text",
    "",
]
CORPUS = [*TEXTS[:2], "the cat sat on the mat, and Mary gave the cat a drink. " * 20]
SPLIT = r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"


def byte_level() -> Tokenizer:
    """As Llama 3's and Qwen's: merges of bytes, behind a splitter of its own."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>"],
        show_progress=False,
    )
    made.train_from_iterator(CORPUS, trainer)
    start = ("<s>", made.token_to_id("<s>"))
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[start])
    return made


def byte_fallback() -> Tokenizer:
    """As Llama 2's: characters, merged behind a written space; bytes where there is none."""
    letters = sorted(set("▁abcdefghijklmnopqrstuvwxyzMJW.,"))
    words = ["▁M", "ar", "ary", "▁Mary", "▁t", "he", "▁the"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *letters, *words]
    merges = [("▁", "M"), ("a", "r"), ("ar", "y"), ("▁M", "ary"), ("▁", "t"), ("h", "e")]
    merges.append(("▁t", "he"))
    vocab = {token: i for i, token in enumerate(tokens)}
    made = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.add_special_tokens([AddedToken(t, special=True) for t in ("<unk>", "<s>", "</s>")])
    return made


def unigram() -> Tokenizer:
    """As SentencePiece's own: the likeliest pieces."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120,
        special_tokens=["<unk>", "<s>", "</s>"],
        unk_token="<unk>",
        show_progress=False,
    )
    made.train_from_iterator(CORPUS, trainer)
    return made


KINDS = {"byte-level": byte_level, "byte-fallback": byte_fallback, "unigram": unigram}


def written(folder: Path, kind: str, **settings: Any) -> Any:
    """The files of a vocabulary, and what transformers makes of them."""
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=KINDS[kind](), bos_token="<s>", eos_token="</s>"
    )
    theirs.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return theirs


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_the_tokens_of_transformers(kind: str, tmp_path: Path) -> None:
    theirs = written(tmp_path, kind)
    ours = library_tokenizer(tmp_path)
    assert isinstance(ours, LibraryTokenizer)
    for text in TEXTS[: 2 if kind == "unigram" else None]:
        ids = theirs.encode(text, add_special_tokens=False)
        assert ours.encode(text) == ids
        assert ours.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=False)
        assert len(ours.token_strings(ids)) == len(ids)
    assert (ours.bos_id, ours.eos_ids) == (theirs.bos_token_id, (theirs.eos_token_id,))
    assert ours.n_vocab == len(theirs)


def test_a_text_begins_as_the_files_say(tmp_path: Path) -> None:
    for i, (kind, settings, adds) in enumerate(
        [
            ("byte-level", {}, True),
            ("byte-level", {"add_bos_token": False}, False),
            ("byte-fallback", {}, False),
            ("byte-fallback", {"add_bos_token": True}, True),
        ]
    ):
        folder = tmp_path / str(i)
        written(folder, kind, **settings)
        tokenizer = library_tokenizer(folder)
        assert tokenizer is not None
        assert tokenizer.roles.adds_bos is adds


def test_a_word_with_its_space_is_one_token(tmp_path: Path) -> None:
    for kind in ("byte-level", "byte-fallback"):
        written(tmp_path / kind, kind)
        ours = library_tokenizer(tmp_path / kind)
        assert ours is not None
        assert ours.token_strings([ours.single_token(" Mary")]) == [" Mary"]
        with pytest.raises(TokenError, match="one token is needed"):
            ours.single_token("Mary Mary")


def test_what_has_no_token_and_what_is_damaged_is_one_clear_error(tmp_path: Path) -> None:
    written(tmp_path, "unigram")
    ours = library_tokenizer(tmp_path)
    assert ours is not None
    with pytest.raises(TokenError, match="no token for a part of '日本'"):
        ours.encode("日本")
    with pytest.raises(TokenError, match="another library's"):
        ours.save(tmp_path / "new")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenError, match=r"tokenizer.json cannot be read"):
        library_tokenizer(tmp_path)
    assert library_tokenizer(tmp_path.parent) is None


@pytest.mark.parametrize("adds", [True, False])
def test_a_model_reads_with_the_vocabulary_of_its_folder(adds: bool, tmp_path: Path) -> None:
    config = transformers.LlamaConfig(
        vocab_size=448,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=1,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    theirs = written(tmp_path, "byte-level", add_bos_token=adds)
    model = circuits.load(tmp_path)
    ids = theirs.encode(TEXTS[0], add_special_tokens=False)
    assert model.to_tokens(TEXTS[0])[0].tolist() == [0] * adds + ids
    assert model.to_single_str_token(447) == "<|unused_447|>"
    assert "Mary" in "".join(model.to_str_tokens(TEXTS[0]))
    assert isinstance(model.generate(TEXTS[0], max_new_tokens=3, seed=0), str)
