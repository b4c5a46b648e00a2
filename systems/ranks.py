"""The processes of one run: started, made to agree, and told apart. The first of them decides and writes.

Each trains on views and rays of its own, and their gradients are averaged (`ids3d.systems.fitting`). What is read from
the disk, written, evaluated and said is left to the first, and the others are told what it found.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from lightning_fabric import Fabric

from ids3d.errors import RunFailed, UserError

T = TypeVar("T")


class Ranks:
    """This process among those of its run.

    Args:
        fabric: has started them; None: there is this one only.
        devices, nodes: processes on each machine, and machines.
    """

    def __init__(self, fabric: Fabric | None = None, devices: int = 1, nodes: int = 1) -> None:
        self._fabric, self.devices, self.nodes = fabric, devices, nodes

    @property
    def is_first(self) -> bool:
        """Whether this is the process that decides and writes."""
        return self._fabric is None or self._fabric.is_global_zero

    def device(self, chosen: torch.device) -> torch.device:
        """Return the device of this process, of those of the kind that was chosen."""
        return chosen if self._fabric is None else self._fabric.device

    def first(self, do: Callable[[], T]) -> T:
        """Have the first process do something, and return in all what came out. Where it raises, the others end."""
        if self._fabric is None:
            return do()
        if not self.is_first:
            done, result = self._fabric.broadcast((False, None))
            if not done:
                raise SystemExit(0)  # the first one says why
            return result  # type: ignore[return-value]
        try:
            result = do()
        except BaseException:
            self._fabric.broadcast((False, None))
            raise
        self._fabric.broadcast((True, result))
        return result

    def each(self, do: Callable[[], T]) -> T:
        """Have every process do something, and return what came out here. Where that is refused, it is said once."""
        error: UserError | None = None
        try:
            result = do()
        except UserError as caught:
            error = caught
        first_failed, any_failed = self.greatest(
            [float(error is not None and self.is_first), float(error is not None)]
        )
        if error is not None and (self.is_first or not first_failed):
            raise error
        if any_failed:
            if not self.is_first:
                raise SystemExit(0)
            raise RunFailed("another process of this run cannot go on: it says why")
        return result

    def greatest(self, numbers: list[float]) -> list[float]:
        """Return the greatest of each number over all processes."""
        if self._fabric is None:
            return numbers
        both = torch.tensor(numbers, dtype=torch.float32, device=self._fabric.device)
        torch.distributed.all_reduce(both, torch.distributed.ReduceOp.MAX)
        return both.tolist()

    def dismiss(self) -> None:
        """End all processes but the first: what is left to do is not shared out."""
        if not self.is_first:
            raise SystemExit(0)


def start_ranks(device: torch.device, devices: int, nodes: int) -> Ranks:
    """Start the processes of a run, one for each device, or meet those that torchrun or SLURM have started.

    Those that are started here run this process's own command. Nothing is started for a single one. Raises UserError:
    there are not as many devices.
    """
    if devices * nodes == 1:
        return Ranks()
    if device.type == "cuda" and devices > torch.cuda.device_count():
        raise UserError(f"devices={devices}, but PyTorch finds {torch.cuda.device_count()} CUDA devices here")
    fabric = Fabric(
        accelerator="cuda" if device.type == "cuda" else "cpu",
        devices=devices,
        num_nodes=nodes,
        strategy="ddp",
    )
    fabric.launch()
    ranks = Ranks(fabric, devices, nodes)
    if not ranks.is_first:
        logging.getLogger("ids3d").setLevel(logging.ERROR)  # the first one says it
    return ranks


def is_lost_rank(error: Exception) -> bool:
    """Tell whether this is what torch says when another process of the run is gone."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower()


@contextlib.contextmanager
def lost_rank_is_one_line() -> Iterator[None]:
    """Raise RunFailed in place of what torch says when another process of the run is gone."""
    try:
        yield
    except RuntimeError as error:
        if is_lost_rank(error):
            raise RunFailed(
                "another process of this run has ended, or cannot be reached any more: what it has saved is kept, "
                "and --resume goes on from there"
            ) from error
        raise
