"""Zero-shot: the class whose name lies nearest, computed another way; that it needs a text tower; that it reaches result and page."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_encoder import write_encoder

from stablerep.batches.tokenize import CaptionTokenizer
from stablerep.config import load_recipe
from stablerep.errors import ConfigError
from stablerep.models import load_encoder
from stablerep.probes.data import load_labelled
from stablerep.probes.evaluate import evaluate_encoder
from stablerep.probes.protocol import NO_LABELS, ProbeProtocol
from stablerep.probes.report import report_html
from stablerep.probes.zero_shot import probe_zero_shot
from stablerep.records import ModelRef
from stablerep.stages import probe
from stablerep.stages.probe import protocol_of
from stablerep.store import Store

TEMPLATES = ("a handwritten {}", "a small {}, tilted")
NAMES = ("zero", "seven", "two")
PROTOCOL = ProbeProtocol(("linear", "zero_shot"), (2,), 2, 3, 16, (0.1,), 5, 0.07, 50, 0, TEMPLATES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_encoder(tmp_path / "encoder", seed=4)
    return tmp_path / "encoder"


def _tokenizer(folder: Path) -> CaptionTokenizer:
    return CaptionTokenizer.from_json((folder / "tokenizer.json").read_text())


def test_classes_are_those_of_the_nearest_mean_text(folder: Path, image_folder: Callable[..., Path]) -> None:
    encoder, tokenizer = load_encoder(folder), _tokenizer(folder)
    images = load_labelled(str(image_folder()), 32).test
    found_Q = probe_zero_shot(encoder, tokenizer, images, NAMES, TEMPLATES, batch_size=4)
    assert len(set(found_Q.tolist())) > 1
    for q in range(len(images)):
        pixels = torch.from_numpy(images[q : q + 1]).float() / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (encoder.mean, encoder.std))
        image_D = encoder.embed_image_for_text((pixels - mean) / std)[0]
        cosines = []
        for name in NAMES:
            texts = [encoder.embed_text(tokenizer.encode([template.replace("{}", name)]))[0] for template in TEMPLATES]
            mean_D = sum(texts) / len(texts)
            cosines.append(float(image_D @ mean_D / mean_D.norm()))
        assert int(np.argmax(cosines)) == found_Q[q]


def test_it_is_in_the_result_and_on_the_page(folder: Path, image_folder: Callable[..., Path]) -> None:
    encoder, images = load_encoder(folder), load_labelled(str(image_folder()), 32)
    result = evaluate_encoder(
        encoder, images, PROTOCOL, identity={"folder": "x"}, uri="file:///evals", batch_size=8, tokenizer=_tokenizer(folder)
    )
    (score,) = [score for score in result.evaluation.scores if score.probe == "zero_shot"]
    predicted_Q = probe_zero_shot(encoder, _tokenizer(folder), images.test, images.class_names, TEMPLATES, 5)
    assert (score.source, score.num_labels_per_class) == ("encoder", NO_LABELS)
    assert score.accuracy == pytest.approx(float((predicted_Q == images.test_labels).mean()))
    assert score.low <= score.accuracy <= score.high
    page = report_html(result)
    assert '<th class="number">no labels</th>' in page
    assert page.count("<td>zero-shot</td>") == 1
    assert "a handwritten {}, a small {}, tilted" in page


def test_suites_without_it_keep_their_ids() -> None:
    plain = replace(PROTOCOL, probes=("linear",), zero_shot_templates=())
    assert plain.suite({"folder": "x"}) == "suite-264510adbcf02374"
    assert len({plain.suite({"a": 1}), PROTOCOL.suite({"a": 1}), replace(PROTOCOL, zero_shot_templates=("{}",)).suite({"a": 1})}) == 3
    assert protocol_of(load_recipe("quickstart").probe).zero_shot_templates == ()


def test_a_recipe_without_text_tower_cannot_ask_for_it() -> None:
    words = 'probe.probes=linear,zero_shot probe.zero_shot_templates=\'["the {}", "number {}"]\''
    assert protocol_of(load_recipe("quickstart", words).probe).zero_shot_templates == ("the {}", "number {}")
    with pytest.raises(ConfigError, match=r"expected a text tower for zero_shot, found pretrain\.objective=multi_positive without one"):
        load_recipe("quickstart", f"{words} pretrain.text_weight=0")
    with pytest.raises(ConfigError, match=r"zero_shot_templates: expected texts with \{\} where the class goes, found \['digit'\]"):
        load_recipe("quickstart", "probe.zero_shot_templates=digit")


def test_an_encoder_without_text_tower_is_refused(store: Store, tmp_path: Path, image_folder: Callable[..., Path]) -> None:
    model_id = write_encoder(tmp_path / "plain", seed=1, has_text=False)
    for path in (tmp_path / "plain").iterdir():
        store.put(path, f"models/{model_id}/{path.name}")
    model = ModelRef(model_id, store.uri_of(f"models/{model_id}"), "sha", "vit_tiny_patch16_224", 48, 32, False)
    words = f"probe.dataset={image_folder()} probe.probes=linear,zero_shot probe.labels_per_class=[2] gate.has_catalogue=false"
    with pytest.raises(ConfigError, match=f"expected an encoder with a text tower for zero_shot, found {model_id} without"):
        probe.run("smoke", words, store.uri, model=model.to_json())
