"""A finished evaluation that tests write: pictures with ellipses, and plausible scores of models of different skill."""

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vesalius.corpus.store import encode_mask
from vesalius.evaluation.results import RUN, write_table

SIDE = 64
# Skill, whether clicks can be given, whether words can.
MODELS = {"sam": (0.4, True, False), "unet": (0.9, False, False), "ours": (1.6, True, True)}
# Modality, target, group, organ, origin.
SETS = {
    "belly": ("ct", "liver", "abdomen", "liver", "internal"),
    "chest": ("xray", "lung", "thorax", "lung", "internal"),
    "skin": ("dermoscopy", "melanoma", "lesion", "skin", "external"),
}
HELP = {"S1": -1.0, "S2": -0.4, "S3": 0.0, "S4": 0.2, "S5": 1.0, "S6": 1.0, "box": 1.0, "text": -0.2}


def write(folder: Path, cases: int = 4, images: int = 2) -> Path:
    """Writes ``corpus``, a folder of sets of pairs, and ``evaluation``; returns the latter."""
    out = folder / "evaluation"
    out.mkdir(parents=True)
    objects = list(_objects(folder / "corpus", cases, images))
    scores = [row for about in objects for row in _scores(about)]
    write_table(out, "objects", objects)
    write_table(out, "prompts", (prompt for about in objects for prompt in _prompts(about)))
    write_table(out, "scores", scores)
    write_table(out, "volumes", _volumes(objects))
    write_table(out, "times", _times(objects))
    write_table(out, "saliency", _saliency(objects))
    run = {
        "vesalius": "0.0",
        "finished": True,
        "corpus": {"path": str(folder / "corpus"), "digest": "c0ffee"},
        "models": [{"name": name, "digest": f"{number:04d}"} for number, name in enumerate(MODELS)],
        "seed": 3,
    }
    (out / RUN).write_text(json.dumps(run))
    return out


def _generator(*names: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(" ".join(map(str, names)).encode()))


def _ellipse(about: Mapping[str, Any], shrink: float = 1.0) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    middle = (about["x0"] + about["x1"]) / 2, (about["y0"] + about["y1"]) / 2
    axes = (about["x1"] - about["x0"]) / 2 * shrink, (about["y1"] - about["y0"]) / 2 * shrink
    return ((x - middle[0]) / axes[0]) ** 2 + ((y - middle[1]) / axes[1]) ** 2 <= 1


def _objects(corpus: Path, cases: int, images: int) -> Iterator[dict[str, Any]]:
    for dataset, (modality, target, group, organ, origin) in SETS.items():
        for part in ("images", "labels"):
            (corpus / dataset / part).mkdir(parents=True)
        for case in range(cases):
            for number in range(images):
                name = f"p{case}_{number}"
                labels, rng = np.zeros((SIDE, SIDE), np.uint8), _generator(dataset, name)
                for instance in (0, 1):
                    width, height = (int(side) for side in rng.integers(12, 28, 2))
                    left, top = (int(place) for place in rng.integers(2, 4, 2) + 31 * instance)
                    about = {"x0": left, "y0": top, "x1": left + width, "y1": top + height}
                    mask = _ellipse(about)
                    labels[mask] = instance + 1
                    yield about | {
                        "object": f"{dataset}/{name}#{instance}",
                        "image": f"{dataset}/{name}",
                        "dataset": dataset,
                        "modality": modality,
                        "case": f"p{case}",
                        "split": "test",
                        "origin": origin,
                        "target": target if instance == 0 else f"{target} cyst",
                        "group": group,
                        "organ": organ,
                        "instance": instance + 1,
                        "height": SIDE,
                        "width": SIDE,
                        "row_spacing": 0.8 if modality == "ct" else None,
                        "column_spacing": 0.8 if modality == "ct" else None,
                        "area": int(mask.sum()),
                        "share": float(mask.mean()),
                        "truth": encode_mask(mask),
                        "aspect": min(width, height) / max(width, height),
                        "intensity_difference": float(rng.uniform(10, 90)),
                        "fourier_order": float(rng.uniform(3, 25)),
                        "volume": f"{dataset}/p{case}" if modality == "ct" else None,
                        "axis": "z" if modality == "ct" else None,
                        "index": number if modality == "ct" else None,
                    }
                pixels = np.where(labels > 0, 170, 60) + rng.integers(0, 20, labels.shape)
                Image.fromarray(pixels.astype(np.uint8)).save(corpus / dataset / "images" / f"{name}.png")
                Image.fromarray(labels).save(corpus / dataset / "labels" / f"{name}.png")
        names = {"1": target, "2": f"{target} cyst"}
        about = {"labels": names, "cases": cases, "instances": False, "modality": modality}
        (corpus / dataset / "set.json").write_text(json.dumps(about))


def _ways() -> Iterator[dict[str, Any]]:
    """What names the rows of one object and model, and how much the prompt helps."""
    plain = {"variant": "", "repeat": 0, "round": 1, "choice": "own", "help": 0.0}

    def way(protocol: str, strategy: str, **more: Any) -> dict[str, Any]:
        gain = HELP.get(strategy, -0.8 + 0.3 * more.get("round", 1) ** 0.7)
        return {**plain, "help": gain, "protocol": protocol, "strategy": strategy, **more}

    for strategy in ("S1", "S2", "S3", "S4", "S5", "S6"):
        yield way("cosmos", strategy, choice="matched")
        if strategy != "S1":
            yield way("cosmos", strategy)
            yield way("jitter", strategy, variant="0")
            for number, variant in enumerate(("0-10", "10-20", "20-30")):
                for repeat in range(3):
                    helped = HELP[strategy] - 0.4 * (number + 1)
                    yield way("jitter", strategy, variant=variant, repeat=repeat, help=helped)
    yield way("sam-med2d", "box")
    yield from (way("sam-med2d", "points", round=number) for number in range(1, 6))
    yield way("medsam", "box", variant="0-20", help=0.6)
    for strategy in ("box", "point", "text"):
        yield from (way("imis", strategy, round=number, help=0.2 * number) for number in range(1, 7))
    yield from (way("interactive", "clicks", round=number) for number in range(1, 21))
    for number in range(6):
        yield way("grid", "S1", variant=str(2 ** (number + 3)), choice="matched", help=-1.5 + 0.2 * number)
    for variant in ("on", "off"):
        yield way("adapter-off", "box", variant=variant, help=1.0 if variant == "off" else 0.6)
        for number in range(1, 6):
            yield way("adapter-off", "points", variant=variant, round=number, help=0.1 * number - 0.3)


def _scores(about: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    hard = _generator(about["object"]).normal(0, 0.6) - about["fourier_order"] / 20
    masks: dict[float, bytes] = {}
    for model, (skill, clicks, words) in MODELS.items():
        for way in _ways():
            row = {"object": about["object"], "model": model} | {k: v for k, v in way.items() if k != "help"}
            reason = None
            if way["strategy"] not in ("S5", "box") and not clicks:
                reason = "takes a box alone"
            elif way["strategy"] == "text" and not words:
                reason = "takes no words"
            elif way["protocol"] == "adapter-off" and model != "ours":
                reason = "has no adapters"
            if reason is not None:
                # What has no answer has no choice either, but in everything mode.
                if way["choice"] == "own" or way["strategy"] == "S1":
                    yield row | {"reason": reason}
                continue
            rng = _generator(about["object"], *row.values())
            dice = float(1 / (1 + np.exp(-(skill + way["help"] + hard + rng.normal(0, 0.25)))))
            if rng.random() < 0.01:
                dice = 0.0
            shrink = round((dice / (2 - dice)) ** 0.5, 1)
            if shrink not in masks:
                masks[shrink] = encode_mask(_ellipse(about, max(shrink, 0.01)))
            far = SIDE * 2**0.5 if dice == 0 else 20 * (1 - dice)
            yield row | {
                "dice": dice,
                "iou": dice / (2 - dice),
                "hd": far,
                "hd95": 0.8 * far,
                "assd": 0.3 * far,
                "nsd": dice**0.8,
                "boundary_iou": dice**2,
                "hce": 10 * (1 - dice) if way["protocol"] == "cosmos" else None,
                "quality": float("nan") if model == "unet" else float(np.clip(dice + rng.normal(0, 0.1), 0, 1)),
                "rle": masks[shrink],
            }


def _prompts(about: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    box = [float(about[side]) for side in ("x0", "y0", "x1", "y1")]
    middle = [(box[0] + box[2]) // 2, (box[1] + box[3]) // 2]
    for strategy, protocol in [("S5", "cosmos"), ("box", "sam-med2d"), ("S2", "cosmos"), ("points", "sam-med2d")]:
        given = {"box": box} if strategy in ("S5", "box") else {"points": middle, "labels": [1]}
        shared = {"object": about["object"], "protocol": protocol, "strategy": strategy, "variant": "", "repeat": 0}
        yield shared | given


def _volumes(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for about in objects:
        if about["index"] == 0:
            for model, (skill, _, _) in MODELS.items():
                rng = _generator(about["object"], model)
                dice = float(1 / (1 + np.exp(-skill - rng.normal(0, 0.3))))
                yield {
                    **{key: about[key] for key in ("volume", "dataset", "modality", "case", "axis", "target")},
                    **{"slices": 2, "model": model, "protocol": "sam-med2d", "strategy": "box", "variant": ""},
                    **{"repeat": 0, "round": 1, "choice": "own", "dice": dice, "iou": dice / (2 - dice)},
                    **{"hd": 30 * (1 - dice), "hd95": 20 * (1 - dice), "assd": 9 * (1 - dice), "nsd": dice},
                }


def _times(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for image in dict.fromkeys(about["image"] for about in objects):
        for number, (model, (_, clicks, _)) in enumerate(MODELS.items()):
            yield {"model": model, "image": image, "stage": "encode", "variant": "", "prompts": 0, "seconds": 0.1}
            for strategy in ("S1", "S2", "S3", "S4", "S5", "S6", "box") if clicks else ("S5", "box"):
                seconds = 2.0 if strategy == "S1" else 0.02 * (number + 1)
                shared = {"model": model, "image": image, "stage": strategy, "variant": ""}
                yield shared | {"prompts": 2, "seconds": seconds}
            for side in (8, 16, 32, 64, 128, 256) if clicks else ():
                shared = {"model": model, "image": image, "stage": "S1", "variant": str(side)}
                yield shared | {"prompts": side**2, "seconds": side / 16}


def _saliency(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for image in list(dict.fromkeys(about["image"] for about in objects))[::8]:
        for number, model in enumerate(MODELS):
            y, x = np.mgrid[:16, :16] / 16
            values = np.clip(np.sin(3 * x + number) * np.cos(2 * y) / 2 + 0.5, 0, 1).astype(np.float16)
            yield {"model": model, "image": image, "height": 16, "width": 16, "values": values.tobytes()}
