"""Curation on a Ray cluster of two nodes on this machine, one of whose workers is killed."""

import os
from pathlib import Path

import pytest

from made_discs import files, recipe
from made_tasks import kills_its_worker_once
from vesalius.corpus import curate as curate_module
from vesalius.corpus.curate import curate
from vesalius.corpus.engines import run_on_ray

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="the cluster is started for Linux and macOS"),
    # Ray leaves pipes and files to the end of the process, and warns of its own future.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    # Workers import what they are sent.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    two = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    two.add_node(num_cpus=1)
    two.wait_for_nodes()
    yield two
    two.shutdown()


def test_both_nodes_work_and_a_killed_workers_task_is_done_by_another(cluster, tmp_path: Path) -> None:
    done = list(run_on_ray(kills_its_worker_once, [(n, tmp_path) for n in range(12)], cluster.address))
    assert sorted(number for number, _ in done) == list(range(12))
    assert (tmp_path / "killed").exists()
    assert len({node for _, node in done}) == 2


def test_a_corpus_made_on_a_cluster_has_the_same_bytes(
    cluster, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curate_module, "BLOCK_ENTRIES", 5)
    curate(recipe(), tmp_path / "here", root=raw)
    curate(recipe(), tmp_path / "there", root=raw, engine="ray", address=cluster.address)
    assert files(tmp_path / "here") == files(tmp_path / "there")
