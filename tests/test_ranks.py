"""Several processes train as one does: here two, on the CPU, that talk to each other through gloo.

The processes of a test do all that it asks for in one go, because it takes them seconds to start, and write down what
they found; the test compares.
"""

import copy
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import nn

from colorize_utils import training
from colorize_utils.data import generator_for, load_splits
from colorize_utils.errors import DeviceError, TrainingError
from colorize_utils.models import Critic, build_generator
from colorize_utils.multiscale import SizedBatchNorm
from colorize_utils.ranks import ALONE, Lost, Part, Ranks, _synchronize, joined
from colorize_utils.recipes import RECIPES
from colorize_utils.training import Interrupted, Trainer, train

CPU = torch.device("cpu")
TINY = {"size": 32, "width": 1 / 16, "batch_size": 8, "epochs": 2, "flip": True, "augment": True}
WITHOUT_CHANCE = {"dropout": 0.0}
# Pictures in a step → how they are dealt out to two processes, two at least: the last one gets none of three.
DEALT = {8: (4, 4), 5: (3, 2), 3: (3, 0)}


def tiny(name, **changes):
    recipe = RECIPES[name]
    if recipe.adversary == "critic":
        changes = {"critic_batch_size": 5} | changes
    if "dropout" in changes and recipe.generator == "wgan-unet":
        del changes["dropout"]
    return replace(recipe, **(TINY | changes))


def freeze(network):
    """Batch norms keep to their running statistics for good."""
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.eval()
            layer.train = lambda mode=True, layer=layer: layer


class Noting(torch.optim.SGD):
    """Notes the gradients that it gets. Adam would make of a gradient that is nearly 0 a step of full length."""

    def __init__(self, network):
        super().__init__(network.parameters(), lr=1e-5)
        self.noted = []

    def step(self, *_):
        gradients = [weights.grad.flatten() for weights in self.param_groups[0]["params"] if weights.grad is not None]
        self.noted.append(torch.cat(gradients).cpu())
        super().step()


def one_step(recipe, splits, pictures, ranks=ALONE, device=CPU, frozen=True):
    """What a step computes from the same batch in as many processes as there are."""
    torch.manual_seed(0)
    trainer = Trainer(recipe, splits, device, "fp32", ranks=ranks)
    trainer.micro_batch = 2
    if frozen:
        freeze(trainer.generator)
    trainer.optimizer_g = Noting(trainer.generator)
    if trainer.discriminator is not None:
        trainer.optimizer_d = Noting(trainer.discriminator)
    seen = []
    for name in ("generate", "generate_at_places"):
        made = getattr(trainer, name)
        setattr(trainer, name, lambda gray, *more, made=made: (seen.append(gray.cpu()), made(gray, *more))[1])
    rng = generator_for(7)
    with pytest.MonkeyPatch.context() as patched:
        if recipe.adversary == "critic" and device == CPU:
            in_double_precision(trainer, patched)
        real, gray = trainer.training_batch(range(pictures), rng)
        losses = trainer.step(real, gray, rng)
    return {
        "losses": losses.cpu(),
        "generator": trainer.optimizer_g.noted,
        "discriminator": [] if trainer.discriminator is None else trainer.optimizer_d.noted,
        "seen": seen,
        "batch": gray.cpu(),
        "statistics": {name: value.cpu() for name, value in trainer.generator.named_buffers()},
    }


def in_double_precision(trainer, patched):
    """A critic this small magnifies rounding: in float32 its step in other micro-batches is off by 2e-5, too."""
    made, single = trainer.training_batch, torch.Tensor.float

    def training_batch(*chosen):  # drawn as ever
        with pytest.MonkeyPatch.context() as again:
            again.setattr(torch.Tensor, "float", single)
            return [pictures.double() for pictures in made(*chosen)]

    patched.setattr(torch.Tensor, "float", torch.Tensor.double)
    patched.setattr(trainer, "training_batch", training_batch)
    for network in trainer.networks.values():
        network.double()


def drawn():
    return load_splits("generated", 32, count=40, cache=None)


def start(task, folder, *arguments):
    """Runs `task` in two processes; returns what each returned."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_process, (task, folder, port, arguments), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def _process(rank, task, folder, port, arguments):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with joined("cpu") as ranks:
        torch.save(task(ranks, *arguments), folder / f"{rank}.pt")


# ---------------------------------------------------------------- a step


def test_every_picture_is_dealt_out_once_by_position():
    for pictures in range(1, 20):
        for count in range(1, 6):
            for least in (1, 2):
                parts = [Ranks(rank, count, least=least).part_of(pictures) for rank in range(count)]
                counting = [part for part in parts if part.share]
                assert [place for part in counting for place in range(part.start, part.stop)] == list(range(pictures))
                assert sum(part.share for part in parts) == pytest.approx(1)
                for part in parts:
                    assert part.stop - part.start >= min(least, pictures)
                    assert part.stop <= pictures
                lengths = [part.stop - part.start for part in counting]
                assert max(lengths) - min(lengths) <= 1


def test_places_are_those_of_one_process_each_where_its_picture_is():
    chosen = torch.randperm(5 * 6, generator=generator_for(0))[:12]
    found, shares = [], 0.0
    for rank in range(3):
        part = Ranks(rank, 3).part_of(5)
        found += (part.places(chosen, 6) + 6 * part.start).tolist()
        shares += part.share
    assert sorted(found) == sorted(chosen.tolist())
    assert shares == pytest.approx(1)
    none = Part(5, 4, 5, 0.2)
    assert none.places(torch.tensor([0, 7]), 6).tolist() == [0]
    assert none.share == 0


def test_nothing_is_dealt_out_of_nothing():
    assert ALONE.part_of(4).of(None) is None
    assert ALONE.part_of(4).share == 1


def steps(ranks):
    splits = drawn()
    cases = {(name, pictures): tiny(name, **WITHOUT_CHANCE) for name in RECIPES for pictures in DEALT}
    # So few places that one process may be left without any.
    cases["multiscale", 2] = tiny("multiscale", places=1, **WITHOUT_CHANCE)
    found = {case: one_step(recipe, splits, case[1], ranks) for case, recipe in cases.items()}
    found["moving", 8] = one_step(tiny("gan-l1", **WITHOUT_CHANCE), splits, 8, ranks, frozen=False)
    return found


@pytest.fixture(scope="module")
def shared_steps(tmp_path_factory):
    return start(steps, tmp_path_factory.mktemp("steps"))


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("pictures", DEALT)
def test_a_step_of_two_processes_is_that_of_one(shared_steps, splits, name, pictures):
    """Batch statistics frozen, dropout off; flips, augmentation, ε, places and the critic's pictures as they come."""
    expected = one_step(tiny(name, **WITHOUT_CHANCE), splits, pictures)
    for found in (process[name, pictures] for process in shared_steps):
        torch.testing.assert_close(found["losses"], expected["losses"], atol=1e-5, rtol=1e-5)
        for network in ("generator", "discriminator"):
            assert len(found[network]) == len(expected[network])
            for ours, theirs in zip(found[network], expected[network], strict=True):
                assert (ours - theirs).norm() < 1e-5 * theirs.norm()
    for network in ("generator", "discriminator"):  # to the bit: the processes must not drift apart
        for ours, theirs in zip(*(process[name, pictures][network] for process in shared_steps), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("pictures", DEALT)
def test_each_process_sees_its_own_pictures(shared_steps, name, pictures):
    batches = [process[name, pictures] for process in shared_steps]
    assert torch.equal(batches[0]["batch"], batches[1]["batch"])
    dealt = batches[0]["batch"].split([count for count in DEALT[pictures] if count])
    for batch, own in zip(batches, dealt, strict=False):
        assert torch.equal(batch["seen"][0], own)
    if name == "wgan":  # the critic's five pictures, twice
        assert [len(seen) for seen in batches[0]["seen"]] == [len(dealt[0]), 3, 3]
        assert [len(seen) for seen in batches[1]["seen"]][1:] == [2, 2]


@pytest.mark.slow
def test_a_process_without_places_does_not_count(shared_steps, splits):
    expected = one_step(tiny("multiscale", places=1, **WITHOUT_CHANCE), splits, 2)
    for process in shared_steps:
        found = process["multiscale", 2]
        torch.testing.assert_close(found["losses"], expected["losses"], atol=1e-5, rtol=1e-5)
        assert (found["generator"][0] - expected["generator"][0]).norm() < 1e-5 * expected["generator"][0].norm()


@pytest.mark.slow
def test_running_statistics_are_averaged_over_processes(shared_steps):
    """The mean over both halves is the mean over the batch; the first layer's input does not depend on the others'."""
    one, other = (process["moving", 8]["statistics"] for process in shared_steps)
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name
    torch.manual_seed(0)
    alone = one_step(tiny("gan-l1", **WITHOUT_CHANCE), drawn(), 8, frozen=False)["statistics"]
    first = next(name for name in one if name.endswith("running_mean"))
    torch.testing.assert_close(one[first], alone[first])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", RECIPES)
def test_on_a_gpu_batch_statistics_are_those_of_all_processes(tmp_path, name):
    """Two processes share a GPU through gloo, which NCCL would refuse."""
    found = start(steps_on_a_gpu, tmp_path, name)
    expected = one_step(tiny(name, **WITHOUT_CHANCE), drawn(), 8, device=torch.device("cuda:0"), frozen=False)
    for process in found:
        torch.testing.assert_close(process["losses"], expected["losses"], atol=1e-4, rtol=1e-4)
        for network in ("generator", "discriminator"):
            for ours, theirs in zip(process[network], expected[network], strict=True):
                assert (ours - theirs).norm() < 1e-3 * theirs.norm()
        for statistic, value in expected["statistics"].items():
            torch.testing.assert_close(process["statistics"][statistic], value, atol=1e-4, rtol=1e-3)


def steps_on_a_gpu(ranks, name):
    recipe = tiny(name, **WITHOUT_CHANCE)
    return one_step(recipe, drawn(), 8, replace(ranks, least=1), torch.device("cuda:0"), frozen=False)


# ---------------------------------------------------------------- batch norm


def test_the_critic_has_no_batch_norm_because_a_synchronized_one_has_no_second_derivatives():
    assert not [layer for layer in Critic(1 / 16).modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("architecture", ["unet", "wgan-unet", "distribution-unet", "multiscale-unet"])
def test_synchronized_batch_norms_have_the_same_keys_and_do_the_same_in_one_process(architecture):
    torch.manual_seed(0)
    plain = build_generator(architecture, 1 / 16, sizes=(32, 64))
    ours = copy.deepcopy(plain)
    parameters = list(ours.parameters())
    _synchronize(ours)
    layers = [layer for layer in ours.modules() if isinstance(layer, nn.BatchNorm2d | nn.SyncBatchNorm)]
    assert layers and all(isinstance(layer, (nn.SyncBatchNorm, SizedBatchNorm)) for layer in layers)
    assert all(one is other for one, other in zip(parameters, ours.parameters(), strict=True))
    ours = copy.deepcopy(ours)  # as for the moving average
    for size in (32, 64):
        gray = torch.rand(2, 1, size, size)
        assert torch.equal(plain.train()(gray), ours.train()(gray))
        assert torch.equal(plain.eval()(gray), ours.eval()(gray))
    assert plain.state_dict().keys() == ours.state_dict().keys()
    for one, other in zip(plain.state_dict().values(), ours.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_without_a_gpu_nothing_is_synchronized():
    network = build_generator("unet", 1 / 16)
    Ranks(0, 2).synchronize(network)
    assert not [layer for layer in network.modules() if isinstance(layer, nn.SyncBatchNorm)]


# ---------------------------------------------------------------- devices


def test_several_processes_each_take_a_gpu_or_the_cpu(monkeypatch):
    assert ALONE.device("mps") == "mps"
    assert ALONE.device(None) is None
    second = Ranks(5, 8, local_rank=1)
    assert second.device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert second.device(None) == "cpu"
    with pytest.raises(DeviceError, match="not on mps"):
        second.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert second.device(None) == second.device("cuda") == "cuda:1"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DeviceError, match="process 2 of this machine has no GPU: there are 1"):
        second.device(None)


def test_one_process_joins_nobody(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined() as ranks:
        assert ranks == ALONE
    monkeypatch.setenv("WORLD_SIZE", "4")  # as some clusters set it, without torchrun
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with joined() as ranks:
        assert ranks == ALONE


# ---------------------------------------------------------------- runs


def kept_of(recipe, splits, folder, ranks=ALONE, frozen=False, **options):
    """Trains, and returns the state of this process's trainer."""
    made = []
    init = Trainer.__init__

    def noting(self, *arguments, **more):
        init(self, *arguments, **more)
        if frozen:
            freeze(self.generator)
        made.append(self)

    Trainer.__init__ = noting
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            train(recipe, splits, folder, device="cpu", precision="fp32", progress=False, ranks=ranks, **options)
    finally:
        Trainer.__init__ = init
    return made[0].state_dict()


def runs(ranks, folder):
    splits, found = drawn(), {}
    for name in RECIPES:
        found[name] = kept_of(tiny(name), splits, folder / name, ranks)
    found["resumed"] = kept_of(RESUMED, splits, folder / "by one, then two", ranks, frozen=True, resume=True)
    kept_of(replace(RESUMED, epochs=1), splits, folder / "by two, then one", ranks, frozen=True)

    step = Trainer.step

    def signalled(self, *arguments):
        if ranks.rank == 1 and self.epoch == 1 and len(self.step_losses) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *arguments)

    Trainer.step = signalled
    try:
        kept_of(tiny("gan-l1"), splits, folder / "stopped", ranks)
    except Interrupted as stop:
        found["stopped"] = str(stop)
    Trainer.step = step
    try:
        other = splits if ranks.first else replace(splits, val=splits.test)
        kept_of(tiny("gan-l1"), other, folder / "other pictures", ranks)
    except TrainingError as error:
        found["other"] = str(error)
    return found


# Without dropout, whose masks differ from process to process, and with frozen statistics.
RESUMED = tiny("gan-l1", dropout=0.0, learning_rate=1e-4)


@pytest.fixture(scope="module")
def shared_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    kept_of(replace(RESUMED, epochs=1), drawn(), folder / "by one, then two", frozen=True)
    return folder, start(runs, folder, folder)


def leaves(value, where=""):
    if isinstance(value, dict):
        return {leaf: tensor for key in value for leaf, tensor in leaves(value[key], f"{where}.{key}").items()}
    if isinstance(value, (list, tuple)):
        return leaves(dict(enumerate(value)), where)
    return {where: value}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_all_processes_end_with_equal_weights(shared_runs, name):
    """And optimizers, averages, curves: to the bit."""
    folder, (one, other) = shared_runs
    one, other = leaves(one[name]), leaves(other[name])
    written = leaves(torch.load(folder / name / "state.pt", weights_only=True))
    assert one.keys() == other.keys() == written.keys()
    for where, value in one.items():
        for copied in (other[where], written[where]):
            same = torch.equal(value, copied) if isinstance(value, torch.Tensor) else value == copied
            assert same or "seconds" in where, where
    assert written[".machine.processes"] == 2
    assert written[".epoch"] == 2


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(shared_runs, splits, tmp_path):
    folder, (ours, _) = shared_runs
    straight = kept_of(RESUMED, splits, tmp_path, frozen=True)
    with pytest.warns(UserWarning, match="saved by 2 processes and goes on with 1: .* up to rounding"):
        train_frozen(RESUMED, splits, folder / "by two, then one")
    other = torch.load(folder / "by two, then one" / "state.pt", weights_only=True)
    assert other["machine"]["processes"] == 1
    for resumed in (ours["resumed"], other):
        assert resumed["epoch"] == 2
        for curve in ("generator_loss", "discriminator_loss", "validation_loss", "psnr"):
            assert resumed["history"][curve] == pytest.approx(straight["history"][curve], rel=1e-4)
        for network in ("generator", "discriminator"):
            weights, expected = (
                torch.cat([tensor.flatten().double() for tensor in state[network].values()])
                for state in (resumed, straight)
            )
            # Adam makes steps of full length, 1e-4, of gradients that are nearly 0: of these a few differ.
            assert (weights - expected).norm() < 1e-4 * expected.norm()
            assert ((weights - expected).abs() > 1e-5).float().mean() < 0.01


def train_frozen(recipe, splits, folder):
    init = Trainer.__init__

    def frozen(self, *arguments, **more):
        init(self, *arguments, **more)
        freeze(self.generator)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainer, "__init__", frozen)
        train(recipe, splits, folder, device="cpu", precision="fp32", progress=False, resume=True)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_the_same_step(shared_runs):
    folder, (one, other) = shared_runs
    assert one["stopped"].startswith("interrupted, all is saved")
    assert "stopped" in other
    state = torch.load(folder / "stopped" / "state.pt", weights_only=True)
    assert (state["epoch"], len(state["step_losses"])) == (1, 2)


@pytest.mark.slow
def test_other_pictures_on_another_machine_are_refused(shared_runs):
    _, (one, other) = shared_runs
    assert "the pictures here are not those of rank 0" in other["other"]
    assert "rank 1 has ended" in one["other"]


class Halves:
    """A loader of numbers, a batch each."""

    def __init__(self, *numbers):
        self.numbers = numbers

    def __len__(self):
        return len(self.numbers)

    def __iter__(self):
        return iter(self.numbers)


@pytest.mark.parametrize("numbers", [(1.0, 2.0, 6.0), (4.0,)])
def test_means_over_batches_that_were_dealt_out_are_those_over_all(monkeypatch, numbers):
    messages = []
    monkeypatch.setattr(torch.distributed, "all_reduce", messages.append)
    for rank in range(2):
        measured = Ranks(rank, 2).mean_over_batches(
            lambda own: [sum(own := list(own)) / len(own), 0.5], Halves(*numbers)
        )
        assert len(measured) == 2
    total = sum(messages)
    assert (total[:-1] / total[-1]).tolist() == pytest.approx([sum(numbers) / len(numbers), 0.5])
    assert ALONE.mean_over_batches(lambda batches: [sum(batches)], Halves(*numbers)) == [sum(numbers)]


class Table:
    """What `torch.distributed` does for threads of this process, by which two ranks are tried in little time."""

    def __init__(self, monkeypatch):
        self.barrier, self.here, self.sent = threading.Barrier(2, timeout=60), threading.local(), [None, None]
        monkeypatch.setattr(torch.distributed, "all_reduce", self.all_reduce)
        monkeypatch.setattr(torch.distributed, "broadcast", self.broadcast)

    def exchange(self, tensor):
        self.sent[self.here.rank] = tensor.clone()
        self.barrier.wait()
        sent = list(self.sent)
        self.barrier.wait()
        return sent

    def all_reduce(self, tensor):
        tensor.copy_(sum(self.exchange(tensor)))

    def broadcast(self, tensor, source):
        tensor.copy_(self.exchange(tensor)[source])

    def run(self, task):
        def at(rank):
            self.here.rank = rank
            try:
                return task(Ranks(rank, 2, rank, least=2))
            except BaseException:
                self.barrier.abort()
                raise

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(at, range(2)))


@pytest.mark.parametrize("name", ["gan-l1", "multiscale"])
def test_two_ranks_train_alike_and_the_first_one_alone_writes_and_shows(monkeypatch, splits, tmp_path, name):
    epochs, warned = [], []
    monkeypatch.setattr(warnings, "warn", lambda text, **_: warned.append(text))

    def task(ranks):
        trainers = []
        step = training.Trainer.begin_together

        def noting(self):
            if self.ranks is ranks:
                trainers.append(self)
            return step(self)

        monkeypatch.setattr(training.Trainer, "begin_together", noting)
        show = {"progress": False, "on_epoch": lambda epoch, *_: epochs.append((ranks.rank, epoch))}
        train(tiny(name), splits, tmp_path / str(ranks.rank), device="cpu", precision="fp32", ranks=ranks, **show)
        return trainers[0].state_dict()

    one, other = map(leaves, Table(monkeypatch).run(task))
    for where, value in one.items():
        same = torch.equal(value, other[where]) if isinstance(value, torch.Tensor) else value == other[where]
        assert same or "seconds" in where, where
    assert epochs == [(0, 1), (0, 2)]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["0"]
    assert [text for text in warned if "batch norms see its own pictures alone" in text] == warned
    assert len(warned) == 1


# ---------------------------------------------------------------- the worst case


@pytest.fixture
def second_of_two(monkeypatch):
    """This process is rank 1 of 2; who connects the processes does nothing."""
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    kept = torch.distributed.HashStore()
    monkeypatch.setattr("colorize_utils.ranks.rendezvous", lambda *_, **__: iter([(kept, 1, 2)]))
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(torch.distributed, name, lambda *_, **__: None)


def test_an_error_names_its_process_but_for_the_first_ones(second_of_two, monkeypatch):
    with pytest.raises(TrainingError, match="rank 1 of 2 processes: out of memory"), joined("cpu") as ranks:
        assert (ranks.rank, ranks.count, ranks.least) == (1, 2, 2)
        raise TrainingError("out of memory")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(TrainingError, match=r"^out of memory"), joined("cpu"):
        raise TrainingError("out of memory")


@pytest.mark.parametrize(("gone", "error"), [([0], Lost), ([], SystemExit)])
def test_a_lost_process_is_named_by_one_of_the_others_alone(second_of_two, gone, error):
    with pytest.raises(error), joined("cpu") as ranks:
        raise Lost(gone, ranks, "")


def test_the_first_process_of_a_machine_prepares_for_the_others(monkeypatch):
    monkeypatch.setenv("GROUP_RANK", "3")
    waited, notes = [], Notes()
    notes.wait = lambda names, patience: waited.append((names, list(notes)))
    with Ranks(4, 8, local_rank=0, store=notes).one_before_the_others():
        assert not notes
    with Ranks(5, 8, local_rank=1, store=notes).one_before_the_others():
        assert waited == [(["prepared/3"], ["prepared/3"])]


class Notes(dict):
    """What the processes leave for each other; `broken` where the one that keeps them has gone."""

    def __init__(self, *there, broken=False):
        super().__init__({f"here/{rank}": "yes" for rank in there})
        self.broken = broken

    def set(self, name, text):
        if self.broken:
            raise RuntimeError("Broken pipe")
        self[name] = text

    def check(self, names):
        return set(names) <= self.keys()


def broken(*_):
    raise RuntimeError("Connection closed by peer")


@pytest.mark.parametrize(
    ("rank", "notes", "who", "speaks"),
    [
        (0, Notes(2), "rank 1 has ended", True),
        (2, Notes(0), "rank 1 has ended", False),
        (2, Notes(), "rank 0 and rank 1 have ended", True),
        (1, Notes(broken=True), "rank 0 has ended", True),
        (0, Notes(1, 2), "broke: Connection closed by peer; start", True),
    ],
)
def test_who_was_lost_is_said_once(monkeypatch, rank, notes, who, speaks):
    monkeypatch.setattr("colorize_utils.ranks.ROLL_CALL", 0.0)
    monkeypatch.setattr(torch.distributed, "all_reduce", broken)
    with pytest.raises(Lost, match=who) as lost:
        Ranks(rank, 3, store=notes).any(True)
    assert lost.value.spoken_by_this == speaks
    assert "--resume" in str(lost.value)


KILLED = textwrap.dedent("""
    import os
    import signal
    import sys
    import torch
    from colorize_utils.cli import main
    from colorize_utils.training import Trainer

    torch.set_num_threads(1)
    step = Trainer.step

    def killed(self, *arguments):
        first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if first and self.ranks.rank == 1 and self.epoch == 1 and len(self.step_losses) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *arguments)

    Trainer.step = killed
    sys.exit(main(sys.argv[1:]))
""")


@pytest.mark.slow
def test_a_run_whose_process_is_killed_says_which_and_goes_on_from_what_was_saved(shared_runs, tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    options = "--data generated --count 40 --size 32 --width 0.0625 --batch-size 8 --epochs 2 --flip --augment"
    options += " --save-minutes 0 --device cpu --precision fp32 --quiet --resume"
    # As the documents print it, but for `-m colorize_utils`.
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1"]
    command += [str(tmp_path / "killed.py"), "train", "gan-l1", *options.split(), "-o", str(tmp_path / "killed")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)
    assert result.returncode == 0, result.stderr
    lines = result.stderr.splitlines()
    assert [line for line in lines if line.startswith("error: ") and "rank 1 has ended" in line], result.stderr
    assert [line for line in lines if "exitcode: -9" in line and "local_rank: 1" in line], result.stderr
    # The second epoch was begun twice, and the first once: the run went on from where it was.
    assert [line.split("  ")[0] for line in result.stdout.splitlines() if line.startswith("epoch")] == [
        "epoch 1/2",
        "epoch 2/2",
    ]
    assert result.stdout.count("2 processes") == 2
    _, (straight, _) = shared_runs
    state = leaves(torch.load(tmp_path / "killed" / "state.pt", weights_only=True))
    for where, value in leaves(straight["gan-l1"]).items():
        same = torch.equal(value, state[where]) if isinstance(value, torch.Tensor) else value == state[where]
        assert same or "seconds" in where, where
