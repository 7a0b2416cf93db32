from pathlib import Path

from tiny_encoder import picture, write_encoder

from stablerep.endpoint.folder import local_folder
from stablerep.endpoint.limits import Limits
from stablerep.endpoint.predictor import Predictor
from stablerep.store import Store


def test_a_local_folder_is_used_in_place_whatever_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "a folder with spaces & 100 %"
    write_encoder(folder, seed=1)
    for uri in (str(folder), folder.as_uri()):
        with local_folder(uri) as found:
            assert found == folder


def test_a_folder_in_an_object_store_is_copied_and_served(tmp_path: Path, s3_store_uri: str) -> None:
    model_id = write_encoder(tmp_path, seed=1)
    store = Store(s3_store_uri)
    for path in tmp_path.iterdir():
        store.put(path, f"models/{model_id}/{path.name}")
    with local_folder(store.uri_of(f"models/{model_id}")) as folder:
        predictor = Predictor(folder, Limits())
    assert not folder.exists()
    assert predictor.model_id == model_id
    expected = Predictor(tmp_path, Limits()).predict([picture(0)]).embedding_NF
    assert (predictor.predict([picture(0)]).embedding_NF == expected).all()
