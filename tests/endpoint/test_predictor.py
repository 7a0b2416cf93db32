import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_encoder import picture, write_encoder

from stablerep.batches.tokenize import CaptionTokenizer
from stablerep.endpoint.limits import Limits
from stablerep.endpoint.predictor import Predictor, Question
from stablerep.errors import BadImageError, CheckpointError, DivergenceError, RequestError, TooLargeError
from stablerep.models import load_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    write_encoder(folder, seed=1)
    return folder


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    return Predictor(folder, Limits(max_batch=8))


def _pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _by_hand(folder: Path, pixels_NHW3: np.ndarray) -> np.ndarray:
    images = torch.from_numpy(pixels_NHW3.copy()).permute(0, 3, 1, 2).float() / 255
    return load_encoder(folder).embed((images - 0.5) / 0.5).numpy()


def test_a_file_is_embedded_as_its_normalised_pixels(folder: Path, predictor: Predictor) -> None:
    files = [picture(seed) for seed in range(3)]
    found = predictor.predict(files)
    assert found.scores_NK is None
    np.testing.assert_allclose(found.embedding_NF, _by_hand(folder, np.stack([_pixels(data) for data in files])), atol=1e-6)


def test_pixels_and_prepared_tensors_give_what_files_give(predictor: Predictor) -> None:
    data = picture(3)
    pixels = _pixels(data)[None]
    prepared = ((pixels.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.5).astype(np.float32)
    expected = predictor.predict([data]).embedding_NF
    np.testing.assert_array_equal(predictor.predict(pixels).embedding_NF, expected)
    np.testing.assert_allclose(predictor.predict(prepared).embedding_NF, expected, atol=1e-6)


def test_photographs_are_resized_to_256_and_cut_to_224(tmp_path: Path) -> None:
    write_encoder(tmp_path, seed=1, size_px=224)
    data = picture(5, size=(400, 300))
    image = Image.open(io.BytesIO(data)).resize((341, 256), Image.Resampling.BICUBIC).crop((58, 16, 282, 240))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = torch.from_numpy(((np.asarray(image) / 255 - mean) / std).astype(np.float32)).permute(2, 0, 1)
    found = Predictor(tmp_path, Limits()).prepare([data], Question())[0].image_3SS
    assert float((found - expected).abs().max()) < 1e-5


def test_orientation_transparency_and_grey_are_understood(predictor: Predictor) -> None:
    upright = Image.open(io.BytesIO(picture(7)))
    turned, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # the viewer turns it by 90 degrees clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(turned, "PNG", exif=exif)
    see_through, white, grey, grey_rgb = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.new("RGBA", (32, 32), (9, 9, 9, 0)).save(see_through, "PNG")
    Image.new("RGB", (32, 32), (255, 255, 255)).save(white, "PNG")
    upright.convert("L").save(grey, "PNG")
    upright.convert("L").convert("RGB").save(grey_rgb, "PNG")
    found = predictor.predict([file.getvalue() for file in (turned, see_through, white, grey, grey_rgb)]).embedding_NF
    np.testing.assert_allclose(found[0], predictor.predict([picture(7)]).embedding_NF[0], atol=1e-5)
    np.testing.assert_allclose(found[1], found[2], atol=1e-5)
    np.testing.assert_allclose(found[3], found[4], atol=1e-5)


def test_normalised_embeddings_have_unit_length_and_the_same_direction(predictor: Predictor) -> None:
    plain = predictor.predict([picture(0)]).embedding_NF
    unit = predictor.predict([picture(0)], Question(is_normalised=True)).embedding_NF
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain), rtol=1e-5)


def test_scores_are_the_softmax_of_scaled_cosines_averaged_over_templates(folder: Path, predictor: Predictor) -> None:
    labels, templates = ("zero", "one", "seven"), ("a handwritten {}", "a small {}")
    files = [picture(0), picture(1)]
    encoder = load_encoder(folder)
    tokenizer = CaptionTokenizer.from_json((folder / "tokenizer.json").read_text())
    texts = []
    for label in labels:
        mean = sum(encoder.embed_text(tokenizer.encode([template.replace("{}", label)]))[0] for template in templates)
        texts.append(mean / mean.norm())
    images = (torch.from_numpy(np.stack([_pixels(data) for data in files])).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    logits = math.exp(encoder.logit_scale) * encoder.embed_image_for_text(images) @ torch.stack(texts).T
    found = predictor.predict(files, Question(labels, templates)).scores_NK
    np.testing.assert_allclose(found, torch.softmax(logits, dim=1).numpy(), atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-6)


def test_questions_with_and_without_labels_share_a_batch(predictor: Predictor) -> None:
    asked, plain = Question(labels=("zero", "one")), Question()
    prepared = [*predictor.prepare([picture(0)], plain), *predictor.prepare([picture(1)], asked), *predictor.prepare([picture(2)], plain)]
    answers = predictor.forward(prepared)
    assert [answer.beside_text_D is None for answer in answers] == [True, False, True]
    scores = predictor.finish(answers[1:2], asked).scores_NK
    np.testing.assert_allclose(scores, predictor.predict([picture(1)], asked).scores_NK, atol=1e-5)


def test_every_bad_image_of_a_request_is_named(predictor: Predictor) -> None:
    with pytest.raises(BadImageError, match=r"image 1 of 4: expected a JPEG.*; image 3 of 4: .*truncated"):
        predictor.predict([picture(0), b"junk", picture(1), picture(2)[:-40]])


def test_limits_hold_for_every_way_in(predictor: Predictor, folder: Path) -> None:
    small = Predictor(folder, Limits(max_image_pixels=100))
    with pytest.raises(TooLargeError, match="image 0 of 1: expected an image of at most 100 pixels, found 32x32"):
        small.predict([picture(0)])
    with pytest.raises(TooLargeError, match="at most 100 pixels, found 50x40"):
        small.predict(np.zeros((1, 40, 50, 3), np.uint8))
    with pytest.raises(TooLargeError, match="at most 8 images in a request, found 9"):
        predictor.predict([picture(0)] * 9)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 3, 16, 16), np.float32),
        np.zeros((1, 32, 32, 3), np.float32),
        np.zeros((1, 32, 32, 4), np.uint8),
        np.zeros((1, 0, 32, 3), np.uint8),
        np.zeros((3, 32, 32), np.float32),
        np.zeros((1, 3, 32, 32), np.float64),
        np.full((1, 3, 32, 32), np.nan, np.float32),
    ],
)
def test_arrays_of_other_kinds_are_refused(predictor: Predictor, images: np.ndarray) -> None:
    with pytest.raises(BadImageError, match="expected"):
        predictor.predict(images)


def test_labels_need_a_text_tower(tmp_path: Path) -> None:
    write_encoder(tmp_path, seed=2, has_text=False)
    predictor = Predictor(tmp_path, Limits())
    predictor.warm_up()
    with pytest.raises(RequestError, match="has no text tower; ask for embeddings of images without labels"):
        predictor.predict([picture(0)], Question(labels=("zero", "one")))


def test_numbers_that_are_not_finite_are_never_answered(predictor: Predictor) -> None:
    answers = predictor.forward(predictor.prepare([picture(0)], Question()))
    broken = [answer._replace(embedding_F=answer.embedding_F / 0.0) for answer in answers]
    with pytest.raises(DivergenceError, match="expected finite embeddings"):
        predictor.finish(broken, Question())


def test_a_damaged_folder_is_not_served(tmp_path: Path) -> None:
    write_encoder(tmp_path, seed=1)
    path = tmp_path / "encoder.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"encoder.safetensors: damaged"):
        Predictor(tmp_path, Limits())
