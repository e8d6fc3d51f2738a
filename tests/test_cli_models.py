import shutil

import cv2
import numpy as np
import pytest
import torch

from golden.networks import ADAPTED, sam
from vesalius.cli import main
from vesalius.core.files import file_digest
from vesalius.models.checkpoint import WEIGHTS, load_checkpoint
from vesalius.models.convert import convert
from vesalius.models.exported import read_export
from vesalius.models.registry import entries, model_folder
from vesalius.training.run import find_recipe


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VESALIUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")


def run(*arguments):
    try:
        main(["models", *map(str, arguments)])
    except SystemExit as stop:
        return stop.code
    return 0


def test_list_names_every_model_and_which_are_here(capsys, tmp_path):
    torch.save(sam().state_dict(), tmp_path / "a.pth")
    convert(tmp_path / "a.pth", model_folder("medsam"), preset="medsam")
    assert run("list") == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    assert lines.keys() == entries().keys()
    assert "fetched" in lines["medsam"]
    assert "by hand" in lines["sam-med2d"]
    assert "by hand" in lines["imis-net"]
    assert "by transformers" in lines["sam2"]
    assert "375 MB" in lines["sam-vit-b"]
    assert "fetched" not in lines["sam-vit-b"]


def test_show(capsys):
    assert run("show", "sam-vit-b") == 0
    out = capsys.readouterr().out
    for part in ("licence: Apache-2.0", "sha256: ec2df62732614e57", "size: 375042383", "preset: sam", "fetched: no"):
        assert part in out
    assert run("show", "sam-vit-x") == 2
    assert "no model 'sam-vit-x'" in capsys.readouterr().err


def test_fetch_says_what_to_do_where_nothing_can_be_fetched(capsys):
    assert run("fetch", "sam-med2d") == 2
    err = capsys.readouterr().err
    assert "https://github.com/OpenGVLab/SAM-Med2D" in err
    assert "vesalius models convert FILE --preset sam-med2d -o" in err


def test_fetch_what_is_here_already(capsys, tmp_path):
    torch.save(sam().state_dict(), tmp_path / "a.pth")
    convert(tmp_path / "a.pth", model_folder("medsam"), preset="medsam")
    assert run("fetch", "medsam") == 0
    assert capsys.readouterr().out.strip() == "medsam is here already"


def test_fetch_what_was_brought_by_hand(capsys, tmp_path):
    torch.save({"model": sam(ADAPTED).state_dict()}, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", model_folder("sam-med2d"))
    assert run("fetch", "sam-med2d") == 0
    assert capsys.readouterr().out.strip() == "sam-med2d is here already"


def test_fetch_from_a_server_that_is_not_there(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert run("fetch", "sam-med2d", "--mirror", "http://127.0.0.1:9", "-o", tmp_path / "out") == 2
    assert "http://127.0.0.1:9/sam-med2d_b.pth failed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_convert(capsys, tmp_path):
    torch.save({"model": sam(ADAPTED).state_dict(), "optimizer": {}}, tmp_path / "a.pth")
    assert run("convert", tmp_path / "a.pth", "-o", tmp_path / "out", "--no-adapters", "--side", "96") == 0
    out = capsys.readouterr().out
    assert "SAM-Med2D under 'model'" in out
    assert "left out: optimizer, the adapters (18 parameters)" in out
    model = load_checkpoint(tmp_path / "out")
    assert (model.config.side, model.config.adapter) == (96, None)
    assert run("convert", tmp_path / "a.pth", "-o", tmp_path / "medsam", "--preset", "medsam") == 0
    assert load_checkpoint(tmp_path / "medsam").preset.intensity == "min_max"
    assert run("convert", tmp_path / "a.pth", "-o", tmp_path / "out") == 2
    assert "holds a checkpoint already" in capsys.readouterr().err


def test_a_model_that_was_fetched_is_converted_by_its_name(capsys, tmp_path):
    assert run("convert", "sam-vit-b", "-o", tmp_path / "out") == 2
    assert "vesalius models fetch sam-vit-b" in capsys.readouterr().err
    torch.save(sam().state_dict(), tmp_path / "a.pth")
    convert(tmp_path / "a.pth", model_folder("sam-vit-b"), preset="sam")
    # As the recipes sam-med2d and ft-sam want what they start from.
    recipe = find_recipe("sam-med2d").read_text()
    assert "vesalius models convert sam-vit-b --side 256 --preset sam-med2d -o sam-256" in recipe
    assert run("convert", "sam-vit-b", "--side", 96, "--preset", "sam-med2d", "-o", tmp_path / "out") == 0
    preset = load_checkpoint(tmp_path / "out").preset
    assert (preset.side, preset.fit, preset.channels) == (96, "pad", "bgr")
    assert "Apache-2.0" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_export_into_the_checkpoint_is_known_as_its_own(capsys, tmp_path, checkpoint):
    cv2.imwrite(str(tmp_path / "image.png"), np.arange(64 * 64, dtype=np.uint8).reshape(64, 64))
    assert run("export", checkpoint, "--format", "onnx", "--image", tmp_path / "image.png") == 0
    assert "1 images and 18 prompts" in capsys.readouterr().out
    assert read_export(checkpoint / "onnx-fp32").checkpoint == file_digest(checkpoint / WEIGHTS)


@pytest.fixture
def checkpoint(request, tmp_path):
    return shutil.copytree(request.getfixturevalue("model_folder"), tmp_path / "model")


def test_export_of_a_file_says_what_to_do_first(capsys, tmp_path):
    path = tmp_path / "own.pth"
    torch.save(sam().state_dict(), path)
    assert run("export", path, "--format", "onnx", "-o", tmp_path / "out") == 2
    assert f"vesalius models convert {path} --preset NAME -o FOLDER" in capsys.readouterr().err
    path = path.rename(tmp_path / "medsam_vit_b.pth")
    assert run("export", path, "--format", "onnx") == 2
    assert f"name a folder with -o, or convert it first: vesalius models convert {path}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]
