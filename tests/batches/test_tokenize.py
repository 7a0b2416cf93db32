import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from stablerep.batches.tokenize import CLIP_VOCABULARY_SIZE, END_TOKEN, CaptionTokenizer, build_tokenizer
from stablerep.errors import ConfigError, DataError

CAPTIONS = [
    "a photo of a bold leaning number four in thin pen",
    "the digit 7 written with a heavy stroke, upright and wide",
    "Thick handwriting of the zero, narrow and forward",
    "a café's sign — it's number 12",
]
TEXTS = [
    "a photo of a cat",
    "It's  a dog's LIFE,\tisn't it?! 123",
    "naïve café — \u201cquoted\u201d \u2018x\u2019",
    "日本語 text & more &amp; <b>bold</b>",
    "emoji 😀😀 !!!...",
    "",
    "$100,000.50 #tag @me _under_score",
    "Ünïcödé ß İstanbul don't we'll they've i'm",
    "word " * 200,
    "x" * 500,
]


@pytest.fixture(scope="module")
def clip() -> CaptionTokenizer:
    return build_tokenizer([], vocabulary="clip", vocabulary_size=CLIP_VOCABULARY_SIZE, context_length=77)


@pytest.fixture
def learnt() -> CaptionTokenizer:
    return build_tokenizer(CAPTIONS, vocabulary="captions", vocabulary_size=512, context_length=20)


@pytest.mark.parametrize("text", TEXTS)
def test_clip_ids_are_open_clips(clip: CaptionTokenizer, text: str) -> None:
    from open_clip.tokenizer import tokenize

    assert torch.equal(clip.encode([text]), tokenize([text]))


def test_clip_ids_are_known_values(clip: CaptionTokenizer) -> None:
    assert clip.encode(["a photo of a cat"])[0, :8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 0]


def test_clip_vocabulary_is_found_without_importing_open_clip() -> None:
    code = (
        "import sys; from stablerep.batches.tokenize import build_tokenizer; "
        "build_tokenizer([], vocabulary='clip', vocabulary_size=49408, context_length=77); "
        "sys.exit('open_clip' in sys.modules or 'timm' in sys.modules or 'torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_clip_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"open-clip-torch, which is not installed; install stablerep\[train\], or set"):
        build_tokenizer([], vocabulary="clip", vocabulary_size=CLIP_VOCABULARY_SIZE, context_length=77)


def test_clip_has_one_size() -> None:
    with pytest.raises(ConfigError, match=r"vocabulary_size: expected 49408 with vocabulary 'clip', found 512"):
        build_tokenizer([], vocabulary="clip", vocabulary_size=512, context_length=77)


def test_learnt_words_are_single_tokens(learnt: CaptionTokenizer) -> None:
    tokens_NT = learnt.encode(["a bold number four"])
    assert tokens_NT.dtype == torch.int64
    assert tokens_NT.shape == (1, 20)
    assert int((tokens_NT != 0).sum()) == 6  # start, four words, end
    assert learnt.vocabulary_size <= 512


@pytest.mark.parametrize("vocabulary", ["clip", "captions"])
def test_end_token_has_the_highest_id_and_is_always_there(vocabulary: str, request: pytest.FixtureRequest) -> None:
    """Trap 14: pooling at argmax and pooling at the end token must agree, also for texts that are cut."""
    tokenizer: CaptionTokenizer = request.getfixturevalue("clip" if vocabulary == "clip" else "learnt")
    tokens_NT = tokenizer.encode(TEXTS + CAPTIONS)
    assert tokenizer.eot_id == tokenizer.vocabulary_size - 1
    assert int(tokens_NT.max()) == tokenizer.eot_id
    assert (tokens_NT == tokenizer.eot_id).sum(dim=1).tolist() == [1] * len(tokens_NT)
    end_N = tokens_NT.argmax(dim=1)
    for tokens_T, end in zip(tokens_NT.tolist(), end_N.tolist(), strict=True):
        assert tokens_T[0] == tokenizer.eot_id - 1
        assert not any(tokens_T[end + 1 :])
    assert tokens_NT[TEXTS.index("word " * 200), -1] == tokenizer.eot_id


def test_padding_length_changes_nothing_before_it() -> None:
    """Trap 14: the pooled position and everything a causal tower sees before it are the same in a longer context."""
    short = build_tokenizer(CAPTIONS, vocabulary="captions", vocabulary_size=512, context_length=16)
    long = build_tokenizer(CAPTIONS, vocabulary="captions", vocabulary_size=512, context_length=40)
    short_NT, long_NT = short.encode(CAPTIONS[:1]), long.encode(CAPTIONS[:1])
    assert torch.equal(long_NT[:, :16], short_NT)
    assert not long_NT[:, 16:].any()


def test_the_last_word_changes_what_comes_before_the_end(learnt: CaptionTokenizer) -> None:
    one_T, other_T = learnt.encode(["number four in thin pen", "number four in thin stroke"])
    end = int(one_T.argmax())
    assert end == int(other_T.argmax())
    assert (one_T != other_T).nonzero()[:, 0].tolist() == [end - 1]


def test_cut_texts_are_counted(learnt: CaptionTokenizer) -> None:
    learnt.encode(["a photo of a cat", "word " * 18])
    before = learnt.num_truncated
    tokens_NT = learnt.encode(["number " * 18, "number " * 19, "number " * 30])
    assert before == 1
    assert learnt.num_truncated - before == 2  # 18 words fit between start and end
    assert torch.equal(tokens_NT[0], tokens_NT[1])


def test_captions_cannot_spell_control_tokens(learnt: CaptionTokenizer, clip: CaptionTokenizer) -> None:
    for tokenizer in (learnt, clip):
        tokens_T = tokenizer.encode([f"four {END_TOKEN} four <pad> <start_of_text> <unk>"])[0]
        assert int((tokens_T >= tokenizer.eot_id - 1).sum()) == 2
        assert int(tokens_T.argmax()) > 6


def test_unknown_characters_do_not_stop_anything(learnt: CaptionTokenizer) -> None:
    tokens_NT = learnt.encode(["日本 four", "z four", "jqx"])
    assert (tokens_NT == 1).sum(dim=1).tolist() == [2, 0, 0]  # letters and numerals are always known
    assert tokens_NT[0, 3] == learnt.encode(["four"])[0, 1]


def test_case_and_white_space_do_not_matter(learnt: CaptionTokenizer) -> None:
    assert torch.equal(*learnt.encode(["  Number\n FOUR &amp; it\u2019s", "number four & it's"]))


def test_ids_do_not_depend_on_order_or_process(learnt: CaptionTokenizer) -> None:
    shuffled = build_tokenizer(CAPTIONS[::-1], vocabulary="captions", vocabulary_size=512, context_length=20)
    assert shuffled.to_json() == learnt.to_json()
    code = (
        "import sys, json; from stablerep.batches.tokenize import build_tokenizer; "
        "t = build_tokenizer(json.loads(sys.argv[1]), vocabulary='captions', vocabulary_size=512, context_length=20); "
        "sys.stdout.buffer.write(t.to_json().encode())"
    )
    found = subprocess.run([sys.executable, "-c", code, json.dumps(CAPTIONS)], check=True, capture_output=True, env={"PYTHONHASHSEED": "1"})
    assert found.stdout.decode() == learnt.to_json()


def test_vocabulary_size_is_an_upper_limit() -> None:
    words = [f"{a}{b}{c}" for a in "abcdefgh" for b in "ijklmnop" for c in "qrstuvwx"]
    small = build_tokenizer(words, vocabulary="captions", vocabulary_size=200, context_length=8)
    assert small.vocabulary_size == 200
    many = build_tokenizer([chr(0x4E00 + i) for i in range(500)], vocabulary="captions", vocabulary_size=400, context_length=8)
    assert many.vocabulary_size <= 400
    assert many.encode([chr(0x4E00)])[0, 1] > 1
    assert many.encode([chr(0x4E00 + 499)])[0, 1] == 1  # the rarest characters, by code point, are unknown


def test_json_round_trip(learnt: CaptionTokenizer, clip: CaptionTokenizer) -> None:
    for tokenizer in (learnt, clip):
        again = CaptionTokenizer.from_json(tokenizer.to_json())
        assert torch.equal(again.encode(TEXTS), tokenizer.encode(TEXTS))
        assert (again.context_length, again.vocabulary_size, again.eot_id) == (
            tokenizer.context_length,
            tokenizer.vocabulary_size,
            tokenizer.eot_id,
        )
        assert again.to_json() == tokenizer.to_json()


def test_the_file_is_a_native_tokenizers_file(learnt: CaptionTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(learnt.to_json(), encoding="utf-8")
    native = Tokenizer.from_file(str(path))
    for text in CAPTIONS:
        assert native.encode(text).ids == learnt.encode([text])[0].tolist()


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"model": {"type": "BPE"}}'])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="expected the JSON of a tokenizer"):
        CaptionTokenizer.from_json(text)


def test_a_tokenizer_without_context_length_is_refused(learnt: CaptionTokenizer) -> None:
    plain = json.loads(learnt.to_json())
    plain["truncation"] = None
    with pytest.raises(DataError, match="expected a tokenizer with truncation, padding and '<end_of_text>'"):
        CaptionTokenizer.from_json(json.dumps(plain))


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"context_length: expected 3 or more .*, found 2"):
        build_tokenizer(CAPTIONS, vocabulary="captions", vocabulary_size=512, context_length=2)
    with pytest.raises(ConfigError, match=r"vocabulary_size: expected 144 or more, found 100"):
        build_tokenizer(CAPTIONS, vocabulary="captions", vocabulary_size=100, context_length=20)
    with pytest.raises(DataError, match="expected captions to learn a vocabulary from, found none"):
        build_tokenizer([], vocabulary="captions", vocabulary_size=512, context_length=20)
