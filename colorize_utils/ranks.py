"""Several processes train one recipe, each on a GPU or a processor of its own: what they have to tell each other.

`torchrun` starts the processes and numbers them: a process's number is its rank. Every one of them draws each step's
batch whole, with all that is random about it, and takes its part by position, so that pictures, order and number of
steps are those of one process. What they send is the sum over all of them of each network's gradients, in one message
after its backward passes. No wrapper hooks into a backward pass: the gradient penalty has one of its own, and the
gradients of both add up before they are sent.

Batch normalization takes its statistics over the pictures of all processes on GPUs (`synchronize`). On the CPU PyTorch
has no such layer: there each process normalizes by its own pictures, at least two where the batch has them, and the
running statistics are averaged, as the gradients are.

Source:
    Karras et al. 2021, "Alias-Free Generative Adversarial Networks": the flattened sum of gradients is in its code.
    torch.distributed; with one process nothing here is used, and nothing is sent.
"""

import io
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.func import functional_call
from torch.utils.data import DataLoader

from colorize_utils.errors import ColorizeError, DeviceError, TrainingError
from colorize_utils.multiscale import SizedBatchNorm

PATIENCE = timedelta(minutes=10)  # how long a process waits for the others in a step, or while the first one saves
DECODING = timedelta(days=1)  # … and for the one that downloads and decodes the pictures
ROLL_CALL = 5.0  # seconds that the others have to report after a connection was lost

OptionalTensor = TypeVar("OptionalTensor", bound=Tensor | None)


@dataclass
class Part:
    """The part of a batch that one process computes.

    A process for which there are no pictures computes with some that another one has, whose losses do not count: so it
    goes the same way as the others, who wait for it.

    Attributes:
        pictures: How many pictures the whole batch has.
        start, stop: The place of this process's first picture, and the place after its last.
        share: How much the mean over this part counts in the mean over the batch, in [0, 1].
    """

    pictures: int
    start: int
    stop: int
    share: float

    def of(self, batch: OptionalTensor) -> OptionalTensor:
        """What belongs to this process's pictures of a tensor with one row for each of the batch's; None of None."""
        return batch if batch is None else cast(OptionalTensor, batch[self.start : self.stop])

    def places(self, chosen: Tensor, each: int) -> Tensor:
        """Those of a batch's places that lie in this process's pictures; from then on `share` is that of the places.

        Args:
            chosen: (N,) indices into the places of all pictures of the batch, one picture's after the other's.
            each: How many places a picture has.

        Returns:
            (M,) indices into the places of this process's pictures, in the same order; one that does not count where
            none was chosen.
        """
        own = chosen[(chosen >= self.start * each) & (chosen < self.stop * each)] - self.start * each
        self.share = len(own) / len(chosen) if self.share else 0.0
        return own if self.share else chosen.new_zeros(1)


@dataclass(frozen=True)
class Ranks:
    """The processes that train together, as one of them sees them.

    Attributes:
        rank: The number of this one, from 0; the first one writes, and speaks.
        count: How many there are.
        local_rank: Its number on its machine.
        least: The fewest pictures that a process gets, while there are that many.
        store: Where they leave notes for each other; None where there is one process.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    least: int = 1
    store: Any = None

    @property
    def first(self) -> bool:
        """Whether this process writes and shows for all."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.count == 1

    # ------------------------------------------------------------ before a run

    def device(self, wanted: str | torch.device | None) -> str | torch.device | None:
        """The device of this process: where there are several, the GPU with its number on its machine, or the CPU.

        Args:
            wanted: What was asked for, the same of all; None for the fastest that there is.

        Returns:
            What to ask for in its place.

        Raises:
            DeviceError: There are fewer GPUs than processes on this machine, or several processes cannot share it.
        """
        if self.alone:
            return wanted
        kind = str(wanted or ("cuda" if torch.cuda.is_available() else "cpu"))
        if kind == "cuda":
            if self.local_rank >= torch.cuda.device_count():
                raise DeviceError(
                    f"process {self.local_rank + 1} of this machine has no GPU: there are {torch.cuda.device_count()}; "
                    "start that many (--nproc-per-node), or take --device cpu"
                )
            return f"cuda:{self.local_rank}"
        if kind != "cpu":
            raise DeviceError(
                f"several processes train on cuda, each on a GPU of its own, or on the cpu, but not on {kind}: leave "
                "--device out, or give one of these"
            )
        return kind

    @contextmanager
    def one_before_the_others(self) -> Iterator[None]:
        """A block that one process of each machine goes through before the others, who find its work in the cache."""
        if self.alone:
            yield
            return
        note = f"prepared/{os.environ.get('GROUP_RANK', '0')}"
        if self.local_rank:
            self.store.wait([note], DECODING)
        yield
        if not self.local_rank:
            self.store.set(note, "yes")

    def synchronize(self, generator: nn.Module) -> None:
        """Makes batch norms take their statistics over the pictures of all processes, on a GPU.

        `nn.SyncBatchNorm` has no second derivatives: a critic, whose penalty needs them, must have no batch norm.

        Args:
            generator: On its device, before anything else refers to its layers; keys, weights and buffers stay.
        """
        if not self.alone and next(generator.parameters()).device.type == "cuda":
            _synchronize(generator)

    def state_of_the_first(self, state: dict[str, Any]) -> dict[str, Any]:
        """The first process's state, which all go on from.

        Args:
            state: This process's own: plain types and tensors.

        Returns:
            The first one's, its tensors on the CPU.
        """
        if self.alone:
            return state
        buffer = io.BytesIO()
        if self.first:
            torch.save(state, buffer)
        length = torch.tensor(buffer.getbuffer().nbytes)
        self._together(lambda: dist.broadcast(length, 0))
        content = torch.zeros(int(length), dtype=torch.uint8)
        if self.first:
            content = torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)
        self._together(lambda: dist.broadcast(content, 0))
        return torch.load(io.BytesIO(content.numpy().tobytes()), map_location="cpu", weights_only=True)

    # ------------------------------------------------------------ in a step

    def part_of(self, pictures: int) -> Part:
        """This process's part of a batch: as many pictures as the others', or one more or less, one after the other.

        Args:
            pictures: How many the whole batch has.

        Returns:
            The part, all of it where there is one process.
        """
        sharing = min(self.count, max(1, pictures // self.least))
        if self.rank >= sharing:  # nothing is left for it
            start = self.rank % max(1, pictures - self.least + 1)
            return Part(pictures, start, min(pictures, start + self.least), 0.0)
        each, more = divmod(pictures, sharing)
        start = self.rank * each + min(self.rank, more)
        stop = start + each + (self.rank < more)
        return Part(pictures, start, stop, (stop - start) / pictures)

    def deal(self, real: Tensor, gray: Tensor) -> tuple[Tensor, Tensor, Part]:
        """This process's pictures of a batch, (B, 3, H, W) and (B, 1, H, W), and which part of it they are."""
        part = self.part_of(len(real))
        return part.of(real), part.of(gray), part

    def add_up(self, network: nn.Module, losses: Tensor, part: Part) -> Tensor:
        """Adds up what the processes found in their parts of a batch, in one message.

        Args:
            network: Its gradients become the sums of all processes': of losses that were multiplied by `part.share`
                *before* their backward passes, because a synchronized batch norm mixes the processes' gradients.
            losses: (N,), means over this part, detached.
            part: This process's.

        Returns:
            The losses of the whole batch, (N,).
        """
        if self.alone:
            return losses
        gradients = [weights.grad for weights in network.parameters() if weights.grad is not None]
        statistics: list[Tensor] = []
        if losses.device.type == "cpu":  # elsewhere they are the same in all processes
            statistics = [values for name, values in network.named_buffers() if "running_" in name]
        means = [losses, *statistics]
        message = torch.cat([*(values.flatten() for values in gradients), *(part.share * v.flatten() for v in means)])
        self._together(lambda: dist.all_reduce(message))
        own = [*gradients, losses.clone(), *statistics]
        for values, total in zip(own, message.split([values.numel() for values in own]), strict=True):
            values.copy_(total.view_as(values))
        return own[len(gradients)]

    def any(self, here: bool) -> bool:
        """Whether something is so in any of the processes; every one of them has to ask.

        Args:
            here: Whether it is so in this one.

        Returns:
            The same in all.
        """
        if self.alone:
            return here
        answer = torch.tensor(int(here))  # on the CPU, so that no GPU is waited for
        self._together(lambda: dist.all_reduce(answer))
        return bool(answer)

    # ------------------------------------------------------------ after an epoch

    def mean_over_batches(
        self, measure: Callable[[Iterable[Any]], Sequence[float]], loader: DataLoader[Any]
    ) -> Sequence[float]:
        """Means over the batches of a loader, which are dealt out one by one.

        Args:
            measure: Batches → means over them; it is not called without a batch.
            loader: All batches.

        Returns:
            Means over all of them, the same in all processes.
        """
        if self.alone:
            return measure(loader)
        own = len(range(self.rank, len(loader), self.count))
        first = self.rank % len(loader)  # where there are fewer batches than processes, one that does not count
        means = measure(islice(loader, first, None if own else first + 1, self.count))
        sums = own * torch.tensor([*means, 1.0], dtype=torch.float64)
        self._together(lambda: dist.all_reduce(sums))
        return (sums[:-1] / sums[-1]).tolist()

    # ------------------------------------------------------------ the worst case

    def _together(self, send: Callable[[], object]) -> None:
        """Sends to the others and receives from them; where that fails, says whose fault it was.

        Raises:
            Lost: A process has ended.
        """
        try:
            send()
        except RuntimeError as error:  # each backend reports a broken connection in words of its own
            raise Lost(self._silent(), self, str(error).partition("\n")[0][:160]) from error

    def _silent(self) -> list[int]:
        """The processes that leave no note when all are asked for one; meanwhile torchrun notices who has ended."""
        try:
            self.store.set(f"here/{self.rank}", "yes")
            time.sleep(ROLL_CALL)
            return [rank for rank in range(self.count) if not self.store.check([f"here/{rank}"])]
        except RuntimeError:
            return [0]  # which keeps the notes, where torchrun does not


ALONE = Ranks()
"""One process, which trains by itself."""


class Lost(TrainingError):
    """A process has ended, and with it the run; or none has, and they cannot reach each other.

    Args:
        gone: The processes that have ended.
        ranks: What one that is left knows.
        reason: What the backend says.

    Attributes:
        spoken_by_this: Whether it is for this process to say so: the first of those that are left.
    """

    def __init__(self, gone: Sequence[int], ranks: Ranks, reason: str):
        who = " and ".join(f"rank {rank}" for rank in gone)
        what = f"{who} {'have' if len(gone) > 1 else 'has'} ended, and with it the run" if gone else reason
        super().__init__(
            f"the connection between the {ranks.count} processes broke: {what}; start it again with --resume (torchrun "
            "--max-restarts does so by itself)"
        )
        self.spoken_by_this = ranks.rank == min(set(range(ranks.count)) - set(gone), default=0)


def _synchronize(generator: nn.Module) -> None:
    for block in list(generator.modules()):
        for name, layer in list(block.named_children()):
            if isinstance(layer, SizedBatchNorm):
                layer.normalize = _OverAllProcesses(layer)
            elif isinstance(layer, nn.BatchNorm2d):
                setattr(block, name, nn.SyncBatchNorm.convert_sync_batchnorm(layer))


class _OverAllProcesses:
    """What takes the place of `F.batch_norm` in a `SizedBatchNorm`, on a GPU, with several processes."""

    def __init__(self, norm: nn.BatchNorm2d):
        assert norm.weight is not None
        self.layer = nn.SyncBatchNorm(norm.num_features, norm.eps, norm.momentum, device=norm.weight.device)

    def __call__(
        self, features: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, training: bool, *_: float
    ) -> Tensor:
        tensors = {"running_mean": mean, "running_var": variance, "weight": weight, "bias": bias}
        return functional_call(self.layer.train(training), tensors, (features,))


@contextmanager
def joined(device: str | None = None) -> Iterator[Ranks]:
    """A block in which the processes that torchrun started are connected.

    An error of the block is given the number of its process, but for that of the first one. Where a process was lost,
    one of the others alone says so.

    Args:
        device: The device asked for, the same in all; None for the fastest kind that there is.

    Yields:
        The processes, as this one sees them; this one alone where torchrun started none, or no other.

    Raises:
        DeviceError: There are fewer GPUs than processes on this machine, or the device is none for several processes.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or not os.environ.keys() >= {"RANK", "LOCAL_RANK", "MASTER_PORT"}:
        yield Ranks()
        return
    rank, count, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    chosen = str(Ranks(rank, count, local_rank).device(device))
    backend = "gloo"
    if chosen != "cpu":
        torch.cuda.set_device(chosen)
        backend = "cpu:gloo,cuda:nccl"  # gloo for what concerns no GPU, so that none is waited for
    notes, _, _ = next(rendezvous("env://", timeout=PATIENCE))
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":
        # torchrun keeps the notes over its restarts, and with them addresses of processes that have ended. On several
        # machines, each of which counts its own restarts, it is told not to (docs/scale.md).
        notes = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", notes)
    dist.init_process_group(backend, store=notes, rank=rank, world_size=count, timeout=PATIENCE)
    try:
        yield Ranks(rank, count, local_rank, least=2 if chosen == "cpu" else 1, store=notes)
    except Lost as error:
        if error.spoken_by_this:
            raise
        raise SystemExit(1) from None
    except ColorizeError as error:
        if rank == 0:
            raise
        raise type(error)(f"rank {rank} of {count} processes: {error}") from error
    dist.destroy_process_group()
