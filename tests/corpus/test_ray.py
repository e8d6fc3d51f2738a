"""Curation and evaluation on a Ray cluster of two nodes on this machine, one of whose workers is killed."""

import os
from pathlib import Path

import pytest

import made_corpus
import vesalius as vs
from made_discs import files, recipe
from made_tasks import block_killed_once, dies, fails, places
from vesalius.corpus import curate as curate_module
from vesalius.corpus.curate import curate
from vesalius.corpus.engines import run_on_ray
from vesalius.evaluation import images as images_module
from vesalius.evaluation.results import read_table
from vesalius.evaluation.run import EvaluationPlan, evaluate_corpus

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


def test_both_nodes_work(cluster) -> None:
    done = list(run_on_ray(places, [(n,) for n in range(12)], cluster.address))
    assert sorted(number for number, _ in done) == list(range(12))
    assert len({node for _, node in done}) == 2


def test_a_worker_killed_in_the_middle_of_a_shard_changes_no_byte(
    cluster, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curate_module, "BLOCK_ENTRIES", 5)
    curate(recipe(), tmp_path / "here", root=raw)
    monkeypatch.setattr(curate_module, "curate_block", block_killed_once)
    curate(recipe(), tmp_path / "there", root=raw, engine="ray", address=cluster.address)
    assert (tmp_path / "killed").read_text() != str(os.getpid())
    assert files(tmp_path / "here") == files(tmp_path / "there")


def test_a_task_that_kills_its_workers_is_one_clear_error(cluster) -> None:
    with pytest.raises(vs.VesaliusError, match=r"given up: its worker was lost 4 times.*--engine local"):
        list(run_on_ray(dies, [(1,)], cluster.address))


def test_what_a_task_raises_is_raised(cluster) -> None:
    with pytest.raises(OSError, match="Input/output error") as caught:
        list(run_on_ray(fails, [(1,)], cluster.address))
    assert caught.value.errno == 5


def test_an_evaluation_on_a_cluster_has_the_same_tables(
    cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_corpus.write(tmp_path / "corpus", [[1, 2, 3], [5, 6, 7]])
    monkeypatch.setattr(images_module, "BLOCK", 2)
    plan = EvaluationPlan(corpus=tmp_path / "corpus", models=("ellipse",), split="all")
    here = evaluate_corpus(plan, tmp_path / "here")
    there = evaluate_corpus(plan, tmp_path / "there", engine="ray", address=cluster.address)
    for table in ("objects", "prompts", "scores"):
        assert repr(read_table(here, table).to_pylist()) == repr(read_table(there, table).to_pylist())
