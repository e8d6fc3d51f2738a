from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from made_dicom import made_series
from vesalius.io.outlines import mask_of_runs, runs_of_mask
from vesalius.predict.load import load_model
from vesalius.server.annotator import Annotator
from vesalius.server.app import create_app
from vesalius.server.security import Rules
from vesalius.server.workspace import Workspace

ADDRESS = "http://127.0.0.1:8000"


@dataclass
class Tab:
    """A browser's tab: a session, and requests by short names of images."""

    client: TestClient
    annotator: Annotator
    session: str

    def id(self, name: str) -> str:
        return next(number for number, item in self.annotator.workspace.items.items() if item.name.startswith(name))

    def get(self, name: str, what: str = "", **query: Any) -> Any:
        return self.client.get(f"/api/images/{self.id(name)}{what}", params=query)

    def post(self, name: str, what: str, body: dict[str, Any]) -> Any:
        return self.client.post(
            f"/api/images/{self.id(name)}{what}", json=body, headers={"X-Vesalius-Session": self.session}
        )

    def act(self, image: str, kind: str, /, **body: Any) -> dict[str, Any]:
        answer = self.post(image, "/actions", {"kind": kind, **body})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def draw(self, name: str, mask: np.ndarray, what: str = "", axis: str = "z", index: int = 0, **more: Any) -> str:
        made = more.pop("object", None) or self.act(name, "create", name=what)["object"]
        self.act(name, "mask", object=made, axis=axis, index=index, mask=runs_of_mask(mask))
        return made

    def masks(self, name: str, axis: str = "z", index: int = 0) -> dict[str, np.ndarray]:
        found = self.get(name, "/planes", axis=axis, index=index).json()["planes"]
        return {one["object"]: mask_of_runs(one["mask"], tuple(one["mask"]["size"])) for one in found if one["mask"]}


def _make_images(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    y, x = np.mgrid[:48, :64]
    disc = np.where((x - 30) ** 2 + (y - 20) ** 2 < 90, 200, 60) + rng.integers(0, 20, (48, 64))
    Image.fromarray(disc.astype(np.uint8)).save(folder / "disc2.png")
    Image.fromarray(np.stack([disc, disc // 2, disc // 3], -1).astype(np.uint8)).save(folder / "disc10.png")
    voxels = rng.normal(0, 20, (20, 24, 12)).astype(np.int16)
    voxels[5:15, 6:18, 3:9] += 300
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([0.7, 0.8, 2.5, 1])), folder / "scan.nii.gz")
    made_series(folder / "ct", 4)
    return folder


@pytest.fixture(scope="session")
def predictor(model_folder):
    return load_model(model_folder)


@pytest.fixture
def images(tmp_path):
    return _make_images(tmp_path / "images")


@pytest.fixture(scope="session")
def make_images():
    return _make_images


@pytest.fixture
def tab(images, predictor):
    annotator = Annotator(Workspace([images]), predictor)
    with TestClient(create_app(annotator, Rules()), base_url=ADDRESS) as client:
        yield Tab(client, annotator, annotator.sessions.create())
