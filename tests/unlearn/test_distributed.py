"""Two processes that share the work end where one process ends; what is sharded is gathered, or refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh
from torch.nn.utils import prune

from codec.unlearn import LedgerError, Problem, Unlearner, find_units
from codec.unlearn._distributed import Team, share_candidates, whole_copy
from codec.unlearn._history import History
from codec.unlearn._ledger import Ledger

N = 41  # no multiple of two


def data():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(N, 5, generator=draw, dtype=torch.float64), torch.randint(3, (N,), generator=draw)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()


class Recurrent(nn.Module):
    """No chain of known layers: products by automatic differentiation."""

    def __init__(self):
        super().__init__()
        self.mix = nn.GRU(5, 4, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.mix(x[:, None].expand(-1, 3, -1))[0][:, -1])


def recurrent():
    torch.manual_seed(1)
    return Recurrent().double()


def normed():
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double()


RUNS = {
    "lfoci on a chain": (net, {"selector": "lfoci", "screen": None, "max_units": 5, "n_perturbations": 60}),
    "all units, small passes": (net, {"selector": "all", "batch_size": 4}),
    "batches of a batch norm": (normed, {"selector": "all", "batch_size": 8}),
    "exact Hessian": (net, {"selector": "kfac_greedy", "max_units": 4, "curvature": "hessian"}),
    "automatic differentiation": (recurrent, {"selector": "gradient_norm", "max_units": 6, "damping": 0.1}),
}


def settings(**options):
    return {"weight_decay": 0.01, "tolerance": 1e-12, "random_state": 0, **options}


def run(make, options, **more):
    """Two requests, one of them of a single sample."""
    ours = Unlearner(make(), "cross_entropy", data(), **settings(**options, **more))
    return [ours.forget([3]), ours.forget([7, 11, 30])], ours.parameters


def start_group(rank, size, store):
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    return distributed.group.WORLD


def child(rank, folder):
    """What each of the two processes does; leaves its results in the folder."""
    torch.set_num_threads(1)
    group = start_group(rank, 2, folder / "store")
    tensors, words = {}, {}
    for name, (make, options) in RUNS.items():
        deletions, parameters = run(make, options, group=group)
        words[name] = [[list(d.units), d.accepted, d.captured_decrement] for d in deletions]
        tensors |= {f"{name}:{key}": value for key, value in parameters.items()}

    ours = Unlearner(net(), "cross_entropy", data(), group=group, ledger=folder / "ledger", **settings(selector="all"))
    ours.forget([3])
    ours.close()
    distributed.barrier()
    again = Unlearner.resume(folder / "ledger", net(), "cross_entropy", data(), group=group, **settings(selector="all"))
    again.forget([7, 11, 30])
    again.close()
    tensors |= {f"resumed:{key}": value for key, value in again.parameters.items()}

    mesh = init_device_mesh("cpu", (2,))
    sharded = net()
    for layer in (sharded[0], sharded[2]):
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    sharded(data()[0])
    before = sharded[0].weight.full_tensor().clone()
    ours = Unlearner(sharded, "cross_entropy", data(), group=group, **settings(selector="all"))
    ours.forget([3])
    ours.forget([7, 11, 30])
    tensors |= {f"FSDP2:{key}": value for key, value in ours.parameters.items()}
    words["FSDP2"] = [torch.equal(before, sharded[0].weight.full_tensor()), type(ours.model).__name__]
    for name, parameter in sharded.named_parameters():  # and back into the shards
        parameter.data.copy_(distribute_tensor(ours.parameters[name], mesh, [Shard(0)]))
    tensors["FSDP2 outputs"] = sharded(data()[0]).detach()

    words["refused"] = []
    columns = net()
    columns[0].weight = nn.Parameter(distribute_tensor(columns[0].weight.detach(), mesh, [Shard(1)]))
    other = nn.Sequential(nn.Linear(5, 3)).double()  # made of another seed in each process
    with torch.no_grad():
        other[0].bias.fill_(float(rank))
    for model in (columns, other):
        try:
            Unlearner(model, "cross_entropy", data(), group=group, **settings(selector="all"))
        except ValueError as error:
            words["refused"].append(str(error))
    words["unlike"] = unlike(rank, group)
    tensors |= failing(rank, group, folder, words)
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / f"{rank}.safetensors")
    (folder / f"{rank}.json").write_text(json.dumps(words))
    distributed.destroy_process_group()


def unlike(rank, group):
    """What is said where the processes differ in something, by its name."""
    x, y = data()
    statistics = normed()
    with torch.no_grad():
        statistics[1].running_mean.fill_(float(rank))
    frozen = net()
    frozen[0].requires_grad_(False)
    with torch.no_grad():
        frozen[0].bias.fill_(float(rank))
    options = settings(selector="all")
    cases = {
        "statistics": (statistics, (x, y), options),
        "frozen": (frozen, (x, y), options),
        "labels": (net(), (x, (y + rank) % 3), options),
        "order": (net(), (x.roll(rank, 0), y.roll(rank, 0)), options),
        "decay": (net(), (x, y), options | {"weight_decay": 0.01 * (1 + rank)}),
        "damping": (net(), (x, y), options | {"damping": 0.1 * (1 + rank)}),
        "seed": (net(), (x, y), options | {"random_state": rank}),
    }
    said = {}
    for name, (model, train_data, more) in cases.items():
        try:
            Unlearner(model, "cross_entropy", train_data, group=group, **more)
        except ValueError as error:
            said[name] = str(error)
    ours = Unlearner(net(), "cross_entropy", (x, y), group=group, **options)
    for name, ids in (("ids", [3 + rank]), ("size", list(range(1 + rank)))):
        try:
            ours.forget(ids)
        except ValueError as error:
            said[name] = str(error)
    return said


def failing(rank, group, folder, words):
    """A disk that is full in process 0, an interrupt in process 1, a guard whose score is each process's own, a save."""
    guard = lambda model: float(rank)  # noqa: E731, ARG005
    options = settings(selector="all", group=group, guard=guard, ledger=folder / "failing")
    ours = Unlearner(net(), "cross_entropy", data(), **options)
    words["failed"] = []
    for culprit, error in ((0, OSError), (1, KeyboardInterrupt)):
        whole = History._take

        def fails(*args, culprit=culprit, error=error, whole=whole):
            if rank == culprit:
                raise error
            return whole(*args)

        History._take = fails
        try:
            ours.forget([3])
        except (OSError, KeyboardInterrupt, RuntimeError) as said:
            words["failed"].append([type(said).__name__, list(ours.forgotten)])
        finally:
            History._take = whole
    words["guard"] = list(ours.forget([3]).guard)
    ours.save(folder / "saved")
    ours.close()
    try:
        Unlearner(net(), "cross_entropy", data(), **options)
    except (ValueError, RuntimeError) as said:
        words["failed"].append([type(said).__name__, [3]])
    distributed.barrier()
    again = Unlearner.resume(folder / "saved", net(), "cross_entropy", data(), **(options | {"ledger": None}))
    again.close()
    return {f"saved:{key}": value for key, value in again.parameters.items()}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Tensors and words of both processes, and where they worked."""
    folder = tmp_path_factory.mktemp("two")
    program = (
        f"import sys, pathlib; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_distributed as t; "
        "t.child(int(sys.argv[1]), pathlib.Path(sys.argv[2]))"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", program, str(rank), str(folder)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    said = [one.communicate(timeout=250)[1] for one in children]
    assert [one.returncode for one in children] == [0, 0], "\n".join(said)
    results = [(load_file(folder / f"{k}.safetensors"), json.loads((folder / f"{k}.json").read_text())) for k in (0, 1)]
    return results, folder


@pytest.mark.slow  # python -m pytest tests/unlearn/test_distributed.py -m slow
class TestTwoProcesses:
    def test_both_hold_the_same_bits(self, found):
        (one, _), (other, _) = found[0]
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert torch.equal(value, other[name]), name

    @pytest.mark.parametrize("name", RUNS)
    def test_the_result_is_that_of_one_process(self, found, name):
        (tensors, words), _ = found[0]
        deletions, parameters = run(*RUNS[name])
        assert words[name] == [
            [list(d.units), d.accepted, pytest.approx(d.captured_decrement, rel=1e-6)] for d in deletions
        ]
        assert all(d.accepted for d in deletions)
        for key, value in parameters.items():
            torch.testing.assert_close(tensors[f"{name}:{key}"], value, rtol=1e-8, atol=1e-10)

    @pytest.mark.parametrize("name", ["resumed", "FSDP2"])
    def test_resumed_and_sharded_models_end_there_too(self, found, name):
        (tensors, _), _ = found[0]
        for key, value in run(net, {"selector": "all"})[1].items():
            torch.testing.assert_close(tensors[f"{name}:{key}"], value, rtol=1e-8, atol=1e-10)

    def test_a_sharded_model_is_not_changed_and_takes_the_result(self, found):
        (tensors, words), _ = found[0]
        assert words["FSDP2"] == [True, "Sequential"]
        model = net()
        model.load_state_dict(run(net, {"selector": "all"})[1])
        torch.testing.assert_close(tensors["FSDP2 outputs"], model(data()[0]).detach(), rtol=1e-8, atol=1e-10)

    def test_process_0_keeps_the_ledger(self, found):
        with Ledger.open(found[1] / "ledger") as ledger:
            assert [entry["kind"] for entry in ledger.entries()] == ["start", "deletion", "deletion"]

    def test_columns_and_unequal_processes_are_refused(self, found):
        for _, words in found[0]:
            columns, unequal = words["refused"]
            assert "cut along another axis than 0" in columns
            assert "(0.weight)" in columns
            assert "differ in 0.bias" in unequal

    def test_processes_that_differ_are_refused_with_what_differs(self, found):
        wanted = {
            "statistics": "1.running_mean", "frozen": "0.bias", "labels": "the training data", "order": "the training data",
            "decay": "weight_decay", "damping": "damping", "seed": "random_state", "ids": "ids", "size": "ids",
        }  # fmt: skip
        for _, words in found[0]:
            assert {
                name: text.partition("differ in ")[2].partition(";")[0] for name, text in words["unlike"].items()
            } == wanted

    def test_what_fails_in_one_process_is_done_in_none(self, found):
        (tensors, first), (_, second) = found[0]
        assert first["failed"] == [["OSError", []], ["RuntimeError", []], ["ValueError", [3]]]
        assert second["failed"] == [["RuntimeError", []], ["KeyboardInterrupt", []], ["RuntimeError", [3]]]
        assert first["guard"] == second["guard"] == [0.0, 0.0]
        ours = Unlearner(net(), "cross_entropy", data(), **settings(selector="all"))
        ours.forget([3])
        for key, value in ours.parameters.items():
            torch.testing.assert_close(tensors[f"saved:{key}"], value, rtol=1e-8, atol=1e-10)


# ------------------------------------------------------------------------------ one process
@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [0, 1, 5, 6])
def test_shares_are_all_of_it_and_nothing_twice(size, n):
    found = []
    for rank in range(size):
        team = Team()
        team.rank, team.size = rank, size
        found += range(n)[team.share(n)]
    assert found == list(range(n))


def test_sums_of_candidates_come_back_whole():
    """Also sums above 2 ** 63, which are two numbers on the way."""

    class Response:
        one = 2**40

    def find(points, response, base, candidates, k):
        return [(1 << 70) * c + c for c in candidates]

    team = Team()
    shared = share_candidates(find, team, torch.device("cpu"))
    assert shared(None, Response, [0], [3, 1, 4], 1) == [(1 << 70) * c + c for c in (3, 1, 4)]


@pytest.fixture
def group_of_one(tmp_path):
    yield start_group(0, 1, tmp_path / "store")
    distributed.destroy_process_group()


def test_a_group_of_one_is_one_process(group_of_one):
    alone, shared = run(net, {"selector": "all"}), run(net, {"selector": "all"}, group=group_of_one)
    assert all(torch.equal(alone[1][key], value) for key, value in shared[1].items())
    with pytest.raises(ValueError, match="random_state is None"):
        Unlearner(net(), "cross_entropy", data(), weight_decay=0.01, group=group_of_one)
    linear = nn.Linear(5, 3).double()
    convex = settings(convex=True, update="gradient", selector="all")
    ours = Unlearner(linear, "cross_entropy", data(), group=group_of_one, **convex)
    with pytest.raises(ValueError, match="random_state is None"):  # of the noise
        ours.release(1.0, 1e-5, bound=1e3)
    assert ours.accountant.releases == ()


def test_sharded_rows_are_gathered_and_columns_are_refused(group_of_one):
    mesh = init_device_mesh("cpu", (1,))
    for placement in (Shard(0), Replicate()):
        model = net()
        model[0].weight = nn.Parameter(distribute_tensor(model[0].weight.detach(), mesh, [placement]))
        assert find_units(model).n_units == 11
        problem = Problem(model, "cross_entropy", data(), weight_decay=0.0)
        assert type(problem.model[0].weight) is nn.Parameter
        assert torch.equal(problem.model[0].weight, net()[0].weight)
    model[2].weight = nn.Parameter(distribute_tensor(model[2].weight.detach(), mesh, [Shard(1)]))
    with pytest.raises(ValueError, match=r"1 parameters are cut .*\(2\.weight\)"):
        Problem(model, "cross_entropy", data(), weight_decay=0.0)


class FullyShardedDataParallel(nn.Sequential):
    """Stands for torch's, which needs a device."""


def test_wrappers_that_hide_rows_are_refused(group_of_one):
    with pytest.raises(ValueError, match=r"model is wrapped by DistributedDataParallel: pass .*`model\.module`"):
        whole_copy(nn.parallel.DistributedDataParallel(net()))
    with pytest.raises(ValueError, match="0 is wrapped by FullyShardedDataParallel: its flat parameters"):
        whole_copy(nn.Sequential(FullyShardedDataParallel(nn.Linear(2, 2))))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_replicas_and_scripts_are_refused_and_compiled_models_are_what_they_were_made_of():
    with pytest.raises(ValueError, match=r"wrapped by DataParallel: pass .*`model\.module`"):
        Problem(nn.DataParallel(net()), "cross_entropy", data(), weight_decay=0.1)
    with pytest.raises(ValueError, match="its layers cannot be seen"):
        Problem(torch.jit.script(net()), "cross_entropy", data(), weight_decay=0.1)
    found = []
    for model in (net(), torch.compile(net(), backend="eager")):
        ours = Unlearner(model, "cross_entropy", data(), weight_decay=0.1, max_units=3, random_state=0)
        assert "K-FAC decrement" in ours.forget([1]).selector
        found.append(ours.parameters)
    assert list(found[0]) == list(found[1])
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name])


@pytest.mark.parametrize(
    "make",
    [
        lambda layer: nn.utils.spectral_norm(layer),
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        lambda layer: prune.random_unstructured(layer, "bias", 2),
    ],
)
def test_models_whose_hooks_have_made_tensors_are_copied(make):
    model = net()
    make(model[0])
    x = data()[0]
    model(x)  # torch's own copy fails from here on
    model.eval()
    expected = model(x)
    ours = Unlearner(model, "cross_entropy", data(), weight_decay=0.1, max_units=3, random_state=0)
    torch.testing.assert_close(ours.model(x), expected)
    ours.forget([1])
    ours.rollback()
    torch.testing.assert_close(ours.model(x), expected)
    assert not torch.equal(ours.problem.model_with({"2.bias": torch.ones(3)})(x), expected)


def test_a_copy_of_a_wrapped_model_is_plain(group_of_one):
    model = net().train()
    model.note = {"layer": model[0]}
    shared = model[2]
    wrapped = fully_shard(model[0], mesh=init_device_mesh("cpu", (1,))), fully_shard(model)
    copied = whole_copy(model)
    assert wrapped[1] is model
    assert type(copied) is nn.Sequential
    assert type(copied[0]) is nn.Linear
    assert copied.note["layer"] is copied[0]
    assert copied[2] is not shared
    assert copied.training
    assert [name for name, _ in copied.named_parameters()] == [name for name, _ in net().named_parameters()]
    assert torch.equal(copied(data()[0]), net()(data()[0]))


class Tied(nn.Module):
    """Tokens, and a decoder that has the weight of their embedding under two names."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.embed, self.decode = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
        self.decode.weight = self.decode.again = self.embed.weight

    def forward(self, x):
        return self.decode(self.embed(x).mean(1))


def test_tied_weights_of_a_sharded_model_stay_tied(group_of_one):
    model = Tied()
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    copied = whole_copy(model)
    assert [name for name, _ in copied.named_parameters()] == ["embed.weight"]
    assert copied.decode.weight is copied.decode.again is copied.embed.weight
    assert type(copied.embed.weight) is nn.Parameter
    assert torch.equal(copied.embed.weight, Tied().embed.weight)
    problem = Problem(model, "cross_entropy", (torch.arange(8).reshape(4, 2) % 6, torch.arange(4)), weight_decay=0.1)
    assert list(problem.parameters()) == ["embed.weight"]


def test_a_ledger_that_is_read_can_be_held_by_another(tmp_path):
    start = {"w": torch.zeros(2)}
    with pytest.raises(LedgerError, match="holds no ledger"):
        Ledger.open(tmp_path, start, read_only=True)
    with Ledger.open(tmp_path, start) as held:
        held.append({"k": 1}, {"w": torch.ones(2)})
        with (tmp_path / "ledger.jsonl").open("ab") as file:
            file.write(b'{"half')  # of a line that is being written
        with Ledger.open(tmp_path, start, read_only=True) as read:
            assert read.entries() == [{"k": 1}]
            assert torch.equal(read.replay(start)["w"], torch.ones(2))
            with pytest.raises(LedgerError, match="opened to be read"):
                read.append({"k": 2})
    assert (tmp_path / "ledger.jsonl").read_bytes().endswith(b'{"half')
