"""Processes of torch.distributed that share the work of one model.

Every process runs the same program on the same data with the same seed. A sum over samples is made of each
process's share of them and added up; a list over candidates is made in shares and put together. After each exchange
all processes hold the same bits, so all of them take the same decisions.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.overrides import TorchFunctionMode

from codec._forward import Find
from codec._neighbors import Geometry, Response

SCRIPTED = "its layers cannot be seen; pass the model before torch.jit"
WRAPPERS = {
    "DataParallel": "pass the model inside it, `model.module`",
    "RecursiveScriptModule": SCRIPTED,
    "TopLevelTracedModule": SCRIPTED,
    "DistributedDataParallel": "pass the model inside it, `model.module`, and the processes as group=",
    "FullyShardedDataParallel": "its flat parameters have no rows; shard the model with fully_shard, or pass it whole",
}
UNCOPIED = (TypeError, RuntimeError, copy.Error)  # what deepcopy raises
Group = Any  # torch.distributed.ProcessGroup, which builds without it do not have


class Team:
    """Processes that share work; without a group, this process alone.

    Parameters
    ----------
    group : ProcessGroup, optional
        For all processes: ``torch.distributed.group.WORLD``.

    Attributes
    ----------
    rank, size : int
        Number of this process, and how many there are.
    device : torch.device
        Of what is exchanged: the model's.
    """

    def __init__(self, group: Group | None = None) -> None:
        self.group = group
        self.rank = 0 if group is None else distributed.get_rank(group)
        self.size = 1 if group is None else distributed.get_world_size(group)
        self.device = torch.device("cpu")
        if self.rank < 0:
            raise ValueError("group does not hold this process; make the unlearner in processes of the group alone.")

    def share(self, n: int) -> slice:
        """Which of n items are this process's."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the processes."""
        if self.size > 1:
            for tensor in tensors:
                distributed.all_reduce(tensor, group=self.group)

    def check_same(self, facts: Mapping[str, str], advice: str) -> None:
        """Refuse processes for which the facts differ; the names are the same in all of them."""
        if self.size == 1:
            return
        mine = torch.tensor([number_of(fact) for fact in facts.values()], dtype=torch.int64)
        ends = torch.cat([mine, -mine]).to(self.device)
        distributed.all_reduce(ends, distributed.ReduceOp.MAX, group=self.group)
        wrong = ((ends[: len(mine)] + ends[len(mine) :]) != 0).nonzero().flatten().tolist()
        if wrong:
            names = list(facts)
            raise ValueError(f"the processes of group differ in {', '.join(names[i] for i in wrong[:3])}; {advice}.")

    def of_first(self, value: float) -> float:
        """Process 0's number, in every process."""
        if self.size == 1:
            return value
        found = torch.tensor([value], dtype=torch.float64, device=self.device)
        distributed.broadcast(found, group=self.group, group_src=0)
        return float(found)

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that fails in every process if it does in one."""
        try:
            yield
        except BaseException:
            self._well(False)
            raise
        if not self._well(True):
            raise RuntimeError("another process of group failed or was interrupted: nothing was changed here either.")

    def _well(self, well: bool) -> bool:
        if self.size == 1:
            return well
        failed = torch.tensor([float(not well)], device=self.device)
        distributed.all_reduce(failed, distributed.ReduceOp.MAX, group=self.group)
        return not bool(failed)

    def check_seed(self, random_state: Any) -> None:
        """Refuse draws that would differ between the processes."""
        if self.group is not None and random_state is None:
            raise ValueError("random_state is None; processes that share work need one seed.")

    @contextmanager
    def first_one_first(self) -> Iterator[None]:
        """Process 0 does the block, then the others."""
        if self.size > 1 and self.rank > 0:
            distributed.barrier(group=self.group)
        try:
            yield
        finally:
            if self.size > 1 and self.rank == 0:
                distributed.barrier(group=self.group)


def number_of(fact: str) -> int:
    """62 bits that stand for a text; its negative is a number, too."""
    return int.from_bytes(hashlib.sha256(fact.encode()).digest()[:8], "big") >> 2


def share_candidates(find: Find, team: Team, device: torch.device) -> Find:
    """The sums of a selection step, each process those of its candidates: integers, so the same as of one."""

    def sums(points: Geometry, response: Response, base: Sequence[int], candidates: Sequence[int], k: int) -> list[int]:
        mine, one = team.share(len(candidates)), response.one
        found = find(points, response, base, candidates[mine], k) if mine.start < mine.stop else []
        parts = torch.zeros(2, len(candidates), dtype=torch.int64)
        parts[:, mine] = torch.tensor([divmod(value, one) for value in found], dtype=torch.int64).view(-1, 2).T
        parts = parts.to(device)
        team.add([parts])
        return [whole * one + part for whole, part in parts.T.tolist()]

    return sums


# --------------------------------------------------------------------------- sharded parameters
def whole_copy(model: nn.Module) -> nn.Module:
    """A copy without shards, of FSDP2 and DTensor models with every row, on every process; without torch.compile.

    Raises
    ------
    ValueError
        A parameter is cut along another axis than its rows, or a wrapper hides the model's own parameters.
    """
    model = uncompiled(model)
    _check_wrappers(model)
    _check_rows(model)
    wrapped = [module for module in model.modules() if _is_fsdp(module)]
    memo: dict[int, Any] = {}
    for module in wrapped:  # torch forbids to copy these: make the class that was wrapped
        plain: Any = type(module).__mro__[2]
        memo[id(module)] = plain.__new__(plain)
    for module in wrapped:
        made = memo[id(module)]
        made.__dict__.update({key: copy.copy(value) for key, value in vars(nn.Module()).items() if "hook" in key})
        with _WithoutGraph():
            made.__dict__.update({key: copy.deepcopy(value, memo) for key, value in vars(module).items() if _own(key)})
    with copying(model, "model"), _WithoutGraph():
        found = copy.deepcopy(model, memo)
    _gather(found)
    return found


def _gather(model: nn.Module) -> None:
    """Replace every parameter that lies on several devices by the whole of it, one for all the names of a tied one."""
    sharded = [parameter for parameter in model.parameters() if hasattr(parameter, "full_tensor")]
    whole = {id(p): nn.Parameter(p.full_tensor().detach().clone(), p.requires_grad) for p in sharded}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(parameter) in whole:
                module.register_parameter(name, whole[id(parameter)])


def uncompiled(model: nn.Module) -> nn.Module:
    """The module inside torch.compile, whose calls hooks see; others as they are."""
    found: nn.Module = getattr(model, "_orig_mod", model)
    return found


def plain_copy(model: nn.Module) -> nn.Module:
    """A copy, also where hooks or calls have left tensors made of parameters (weight norm, pruning, kept features)."""
    with _WithoutGraph():
        return copy.deepcopy(model)


@contextmanager
def copying(model: nn.Module, name: str) -> Iterator[None]:
    """A TypeError that says what in the model cannot be copied."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except UNCOPIED as error:
        raise TypeError(
            f"{name} cannot be copied, and no model is run or changed but as a copy: {_uncopied(model)}. Modules must "
            "hold no locks, open files or generators: take these out, or leave them out of copies by a __getstate__ of the "
            "module."
        ) from error


def _uncopied(model: nn.Module) -> str:
    """Which attribute of which module deepcopy refuses."""
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key in {"_modules", "_parameters", "_buffers"} or isinstance(value, Tensor):
                continue
            try:
                copy.deepcopy(value)
            except UNCOPIED:
                return f"its attribute {'.'.join(filter(None, (name, key)))!r} of type {type(value).__name__}"
    return f"deepcopy refuses its {type(model).__name__}"


class _WithoutGraph(TorchFunctionMode):
    """Copies of what torch refuses to copy, being made of other tensors, hold the values alone."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            return func(*args, **(kwargs or {}))
        except RuntimeError:  # with a graph, or from within a transform of torch.func
            if func is not Tensor.__deepcopy__:
                raise
        tensor, memo = args
        memo[id(tensor)] = tensor.detach().clone()
        return memo[id(tensor)]


def _check_wrappers(model: nn.Module) -> None:
    for name, module in model.named_modules():
        kind = type(module).__name__
        if kind in WRAPPERS:
            raise ValueError(f"{name or 'model'} is wrapped by {kind}: {WRAPPERS[kind]}.")


def _check_rows(model: nn.Module) -> None:
    cut = [name for name, parameter in model.named_parameters() if not whole_rows(parameter)]
    if cut:
        raise ValueError(
            f"{len(cut)} parameters are cut along another axis than 0, where units have their rows ({', '.join(cut[:3])}"
            f"{', ...' * (len(cut) > 3)}); shard rows (FSDP2 does), or gather them."
        )


def whole_rows(parameter: Tensor) -> bool:
    """Whether a parameter that lies on several devices is cut between rows."""
    placements = getattr(parameter, "placements", ())
    return all(place.is_replicate() or place.is_shard(dim=0) for place in placements)


def _is_fsdp(module: nn.Module) -> bool:
    return distributed.is_available() and any(cls.__name__ == "FSDPModule" for cls in type(module).__mro__)


def _own(key: str) -> bool:
    """Whether an attribute of a wrapped module is the module's and not the wrapper's."""
    return "hook" not in key and not key.startswith("__") and "fsdp" not in key
