import io
import os
import pickle
import warnings
import zipfile

import pytest
import torch

from golden.networks import sam
from vesalius.core.errors import ModelError
from vesalius.models.torch_file import Placeholder, read_inert, read_torch_file


class Malicious:
    """Runs ``call`` when it is unpickled as pickles usually are."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return (self.call, self.arguments)


class Stateful:
    def __init__(self, trace):
        self.trace = str(trace)

    def __setstate__(self, state):
        os.mkdir(state["trace"])  # noqa: PTH102


def same(found, state):
    assert list(found) == list(state)
    for name, value in state.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name


def test_plain_tensors(tmp_path):
    state = sam().state_dict()
    torch.save({"model": state, "epoch": 3}, tmp_path / "a.pth")
    content = read_torch_file(tmp_path / "a.pth")
    assert content["epoch"] == 3
    same(content["model"], state)


def test_a_pickled_optimizer_is_passed_over(tmp_path, caplog):
    model = sam()
    optimizer = torch.optim.Adam(model.parameters())
    model.encode(torch.ones(1, 3, 64, 64))[0].sum().backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer}, tmp_path / "a.pth")
    content = read_torch_file(tmp_path / "a.pth")
    same(content["model"], model.state_dict())
    assert isinstance(content["optimizer"], Placeholder)
    assert "torch.optim.adam.Adam" in caplog.text


def test_inert_reading_gives_what_torch_reads(tmp_path):
    whole = torch.arange(24.0).reshape(4, 6)
    content = {
        "shared": [whole, whole[1:, ::2]],
        "turned": whole.T,
        "types": (torch.zeros(3, dtype=torch.bfloat16), torch.tensor(7), torch.ones(2).half(), torch.tensor([True])),
        "empty": torch.zeros(0, 4, dtype=torch.int64),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    torch.save(content, tmp_path / "a.pth")
    expected = torch.load(tmp_path / "a.pth", weights_only=True)
    found, objects = read_inert(tmp_path / "a.pth")
    assert objects == []
    pairs = zip(torch.utils._pytree.tree_leaves(found), torch.utils._pytree.tree_leaves(expected), strict=True)
    for ours, theirs in pairs:
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
    assert found["shared"][0].untyped_storage().data_ptr() == found["shared"][1].untyped_storage().data_ptr()


ATTACKS = {
    "mkdir": lambda trace: Malicious(os.mkdir, str(trace)),
    "system": lambda trace: Malicious(os.system, f'mkdir "{trace}"'),
    "eval": lambda trace: Malicious(eval, f"__import__('os').mkdir({str(trace)!r})"),
    "exec": lambda trace: Malicious(exec, f"import os; os.mkdir({str(trace)!r})"),
    "state": Stateful,
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_malicious_object_is_not_run_and_the_tensors_are_read(tmp_path, attack, caplog):
    trace, path = tmp_path / "trace", tmp_path / "a.pth"
    state = sam().state_dict()
    torch.save({"model": state, "optimizer": ATTACKS[attack](trace)}, path)
    content = read_torch_file(path)
    assert not trace.exists()
    same(content["model"], state)
    assert "nothing of them run" in caplog.text
    # The attack is a real one: a reader that trusts the file runs it.
    torch.load(path, weights_only=False)
    assert trace.exists()


def handmade(path, program):
    """A zip-format file with a pickle written by hand."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'touch trace'\ntR.",  # REDUCE
        b"(S'touch trace'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'touch trace'\no.",  # OBJ
        b"cos\nsystem\n(S'touch trace'\nt\x81.",  # NEWOBJ
        b"cos\nsystem\n(S'touch trace'\nt}\x92.",  # NEWOBJ_EX
        b"cos\nsystem\n}S'a'\nI1\nsb.",  # BUILD on what was named
        b"ctorch._utils\n_rebuild_tensor_v2\n}S'__code__'\nI1\nsb0cos\nsystem\n(S'touch trace'\ntR.",
        b"ccollections\nOrderedDict\n)R}S'items'\ncos\nsystem\nsb.",
    ],
)
def test_no_opcode_runs_anything(tmp_path, monkeypatch, program):
    monkeypatch.chdir(tmp_path)
    handmade(tmp_path / "a.pth", b"\x80\x02" + program)
    try:
        content = read_torch_file(tmp_path / "a.pth")
    except ModelError:
        content = None
    assert not (tmp_path / "trace").exists()
    assert content is None or type(content) is dict or isinstance(content, Placeholder) or issubclass(content, object)
    # And the next file is read as if nothing had been.
    torch.save({"a": torch.ones(2), "b": Malicious(len, "abc")}, tmp_path / "b.pth")
    assert read_torch_file(tmp_path / "b.pth")["a"].tolist() == [1, 1]


def test_tensors_outside_their_storage_are_refused(tmp_path):
    torch.save({"a": torch.ones(4), "b": Malicious(len, "abc")}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in files if name.endswith("data.pkl"))
    changed = files[pickled].replace(b"K\x04\x85", b"K\x40\x85")
    assert changed != files[pickled]
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, changed if name == pickled else content)
    with pytest.raises(ModelError, match="damaged"):
        read_torch_file(tmp_path / "a.pth")


def test_old_files_are_read_if_they_hold_tensors_alone(tmp_path):
    path, trace = tmp_path / "a.pth", tmp_path / "trace"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    assert read_torch_file(path)["a"].tolist() == [1, 1, 1]
    torch.save({"a": torch.ones(3), "b": Malicious(os.mkdir, str(trace))}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ModelError, match=r"a\.pth.*before PyTorch 1\.6.*nothing in it was run"):
        read_torch_file(path)
    path.write_bytes(pickle.dumps(Malicious(os.mkdir, str(trace))))
    with (
        warnings.catch_warnings(record=True, action="always") as seen,
        pytest.raises(ModelError, match="could be code"),
    ):
        read_torch_file(path)
    assert not seen
    assert not trace.exists()


def test_damaged_files(tmp_path):
    path = tmp_path / "sam_vit_b.pth"
    with pytest.raises(ModelError, match="No such file"):
        read_torch_file(path)
    buffer = io.BytesIO()
    torch.save({**sam().state_dict(), "object": Malicious(len, "abc")}, buffer)
    whole = buffer.getvalue()
    parts = [whole[:length] for length in (0, 3, 100, len(whole) // 2, len(whole) - 10)]
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    for content in (*parts, b"not a checkpoint at all", bytes(changed)):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"sam_vit_b\.pth.*(truncated|damaged)"):
            read_torch_file(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ModelError, match="no PyTorch file"):
        read_torch_file(path)
