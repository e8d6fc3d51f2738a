"""The mean of weights that were trained from one start, or one from the other (Wortsman et al., "Model soups", 2022).

The bundled weights are made so, of the networks of the last two parts of their training:

    python benchmarks/mean_weights.py part13/checkpoint part14/checkpoint -o mean

writes ``mean/checkpoint``, as float16, and ``mean/run.json`` with the digests of both and the cases that either had
seen. Running statistics of batch normalisation are averaged as well. `finer.toml` goes on from another mean: that of
two runs of the recipe vesalius-tiny-9, one of them with less room around the boxes (docs/validation.md, "What else was
tried").
"""

import argparse
import json
from pathlib import Path

import torch

from vesalius.core.errors import ConfigError
from vesalius.models.checkpoint import load_checkpoint, save_checkpoint, weights_digest
from vesalius.training.run import cases_seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="CHECKPOINT")
    parser.add_argument("-o", "--output", required=True, type=Path, help="a new folder")
    options = parser.parse_args()
    if options.output.exists():
        raise ConfigError("is there already", path=options.output, remedy="name a new folder")
    networks = [load_checkpoint(path) for path in options.models]
    first = networks[0]
    for path, network in zip(options.models, networks, strict=True):
        if (network.config, network.preset) != (first.config, first.preset):
            raise ConfigError("is another network", path=path, remedy=f"give checkpoints like {options.models[0]}")
    record = {
        "steps": 0,
        "mean_of": [weights_digest(network) for network in networks],
        "seen_before": sorted(set().union(*(cases_seen(path) for path in options.models))),
    }
    states = [network.state_dict() for network in networks]
    mean = {}
    for name, value in states[0].items():
        mean[name] = value
        if value.is_floating_point():
            mean[name] = torch.stack([state[name].double() for state in states]).mean(0).to(value.dtype)
    first.load_state_dict(mean)
    save_checkpoint(first, options.output / "checkpoint", half=True)
    (options.output / "run.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
