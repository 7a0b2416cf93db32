"""Captions of concepts: balanced, a function of the seed, with their provenance, by templates and by a real language model."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from stablerep.captions.clean import Rules, clean_captions
from stablerep.captions.language_model import TransformersLanguageModel
from stablerep.captions.prompt_set import read_prompt_set
from stablerep.captions.read import check_source, read_captions
from stablerep.captions.synthesis import Synthesis, concept_rows
from stablerep.config import load_recipe
from stablerep.errors import CaptionError, ConfigError
from stablerep.stages.prepare import run
from stablerep.store import Store

CONCEPTS = ["otter", "red panda", "kettle"]


@pytest.fixture
def concept_list(tmp_path: Path) -> Path:
    path = tmp_path / "concepts.txt"
    path.write_text("# animals and things\notter\nred panda\n\nkettle\notter\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny GPT-2 with random weights over bytes; it writes nonsense, by the code that writes sense with a trained one."""
    folder = tmp_path_factory.mktemp("model") / "tiny-gpt2"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = Tokenizer(models.BPE(vocab={symbol: number for number, symbol in enumerate([*alphabet, "<end>"])}, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_only, eos_token="<end>", model_max_length=512)
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes: dict[str, Any] = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 512}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(alphabet) + 1, bos_token_id=len(alphabet), eos_token_id=len(alphabet), **sizes))
    model.save_pretrained(folder, safe_serialization=True)
    return folder


def _rows(**changes: Any) -> list[tuple[str, dict[str, Any]]]:
    asked = {"num_captions": 20, "seed": 0} | {name: changes.pop(name) for name in ("num_captions", "seed") if name in changes}
    return list(concept_rows("list.txt", changes.pop("concepts", CONCEPTS), Synthesis(**changes), **asked))


def test_concepts_get_equally_many_different_captions() -> None:
    rows = _rows()
    assert Counter(origin["concept"] for _, origin in rows) == {"otter": 7, "red panda": 7, "kettle": 6}
    assert len({text for text, _ in rows}) == 20
    assert all(origin["concept"] in text for text, origin in rows)
    assert Counter(origin["concept"] for _, origin in _rows(num_captions=0, captions_per_concept=4)) == dict.fromkeys(CONCEPTS, 4)


def test_where_a_caption_came_from_is_kept() -> None:
    text, origin = _rows(templates=("a {concept} in {background}",), backgrounds=("a bath",), num_captions=3)[1]
    assert text == "a red panda in a bath"
    expected = {"source": "list.txt", "concept": "red panda", "label": "red panda", "template": "a {concept} in {background}"}
    assert origin == expected | {"seed": 0, "number": 0}


def test_a_caption_depends_on_seed_and_concept_only() -> None:
    assert _rows() == _rows()
    assert {text for text, _ in _rows()} != {text for text, _ in _rows(seed=1)}
    alone = [text for text, _ in _rows(concepts=["red panda"], num_captions=7)]
    assert alone == [text for text, origin in _rows() if origin["concept"] == "red panda"]


def test_rules_make_room_for_other_captions_of_the_concept() -> None:
    rows = _rows(rules=Rules(min_words=5, blocklist=("drawing", "Snow")))
    assert len(rows) == 20
    assert not any("drawing" in text or "snow" in text or len(text.split()) < 5 for text, _ in rows)


def test_too_few_combinations_are_an_error() -> None:
    with pytest.raises(CaptionError, match=r"list.txt: expected 7 different captions of 'otter', found 1; ask for fewer"):
        _rows(templates=("one {concept}",))
    with pytest.raises(CaptionError, match="expected concepts, one a line, found none"):
        _rows(concepts=[" "])


def test_a_language_model_writes_what_prompt_and_seed_decide(language_model: Path) -> None:
    model = TransformersLanguageModel(str(language_model), temperature=1.0, max_new_tokens=12)
    prompts, seeds = ["otter =>", "a much longer prompt about a kettle =>", "otter =>"], [1, 2, 3]
    together = model.complete(prompts, seeds)
    assert together == model.complete(prompts, seeds)
    assert together[0] != together[2], "another seed, other words"
    assert [model.complete([prompt], [seed])[0] for prompt, seed in zip(prompts, seeds, strict=True)] == together
    cold = TransformersLanguageModel(str(language_model), temperature=1e-4, max_new_tokens=12)
    assert cold.complete(prompts[:1], [1]) == cold.complete(prompts[:1], [2]), "without temperature the best word always wins"


def test_concepts_by_a_language_model(language_model: Path) -> None:
    def open_model() -> TransformersLanguageModel:
        return TransformersLanguageModel(str(language_model), temperature=1.0, max_new_tokens=12)

    rows = _rows(open_model=open_model, num_captions=6)
    assert Counter(origin["concept"] for _, origin in rows) == dict.fromkeys(CONCEPTS, 2)
    assert {origin["model"] for _, origin in rows} == {"tiny-gpt2"}
    assert {origin["template"] for _, origin in rows} <= {"concept", "concept_background", "concept_relation"}
    assert rows == _rows(open_model=open_model, num_captions=6)


def test_a_model_without_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(CaptionError, match=r"captions.language_model .*: expected a folder of transformers with weights as .safetensors"):
        TransformersLanguageModel(str(tmp_path), temperature=1.0, max_new_tokens=4)


def test_prepare_makes_a_prompt_set_of_concepts(tmp_path: Path, concept_list: Path) -> None:
    blocked = tmp_path / "blocked.txt"
    blocked.write_text("drawing\n", encoding="utf-8")
    words = f"captions.source=concepts:{concept_list} captions.num_captions=0 captions.captions_per_concept=3 captions.blocklist={blocked}"
    prompt_set = run("smoke", words, str(tmp_path / "store"))
    captions = read_prompt_set(Store(str(tmp_path / "store")), prompt_set)
    assert Counter(caption.metadata["concept"] for caption in captions) == dict.fromkeys(CONCEPTS, 3)
    assert {caption.metadata["source"] for caption in captions} == {"concepts.txt"}
    assert prompt_set.counts["kept"] == 9
    assert "drawing" not in json.dumps([caption.text for caption in captions])


def test_a_list_is_checked_before_anything_is_made(concept_list: Path) -> None:
    assert check_source(f"concepts:{concept_list}", "caption") == f"concepts:{concept_list} holds 3 concepts; the first is 'otter'"
    with pytest.raises(CaptionError, match=r"nowhere\.txt: expected a file with captions, found nothing there"):
        list(read_captions("concepts:nowhere.txt", "caption"))
    with pytest.raises(ConfigError, match=r"captions.templates: expected \{concept\} in every template, found 'a thing'"):
        load_recipe("smoke", "captions.templates=a\\ thing")


def test_blocklist_and_length_rules_hold_for_files_too() -> None:
    rows = [("a cat", {}), ("a Cat in a hat", {}), ("a category of things", {}), ("one", {}), ("the  big   hat rack", {})]
    kept, counts = clean_captions(rows, max_words=9, num_captions=0, seed=0, min_words=3, blocklist=("cat", "big hat"))
    assert [caption.text for caption in kept] == ["a category of things"]
    assert counts == {"read": 5, "kept": 1, "empty": 0, "duplicate": 0, "left_out": 0, "truncated": 0, "short": 2, "blocked": 2}
