"""The loader: the same pixels whoever reads, however cut, from wherever it starts; and loud when it cannot."""

import itertools
import logging
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.kit import ranks
from tests.kit.pictures import READERS, beton, digest, needs_ffcv, picture, section, stream, tree
from unicscale.contracts import Progress
from unicscale.data.loader import open_loader
from unicscale.data.pack.writing import Form, pack
from unicscale.data.sets.beton import Beton
from unicscale.data.sets.images import ffcv_missing
from unicscale.data.stream import workers
from unicscale.data.stream.workers import Workers
from unicscale.errors import DataError, RecipeError
from unicscale.ranks.world import World
from unicscale.recipe.sections import EngineSection

PLAIN = {"augment": {"jitter": 0, "grey": 0, "blur": 0, "solarize": 0}}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """The same 40 JPEGs as a folder and as a beton that keeps their bytes."""
    folder = tmp_path_factory.mktemp("sets")
    source = tree(folder / "tree", 40)
    packed = beton(folder, source)
    return {"folder": source, "beton": packed, "ffcv": packed}


@pytest.fixture
def heard():
    """What is said in a test, as the log of a run hears it."""
    lines: list[str] = []
    ear, voice = logging.Handler(), logging.getLogger("unicscale")
    ear.emit = lambda record: lines.append(record.getMessage())
    before = voice.level
    voice.addHandler(ear)
    voice.setLevel(logging.INFO)
    yield lines
    voice.removeHandler(ear)
    voice.setLevel(before)


@pytest.mark.parametrize("reader", READERS)
def test_pixels_do_not_depend_on_world_workers_or_batch_split(sets, reader):
    seen = {
        digest(stream(section(sets[reader], reader=reader, workers=w, micro_batch=8 // world // split), world=world))
        for world, w, split in itertools.product((1, 2, 4), (0, 1, 4), (1, 2))
    }
    assert len(seen) == 1


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_run_resumes_at_any_step_with_any_world_and_other_workers(sets, reader, world):
    whole = stream(section(sets[reader], reader=reader), steps=12)  # two epochs and a half
    at = int(np.random.default_rng(world).integers(1, 12))
    late = stream(section(sets[reader], reader=reader, workers=world), world=world, after=at * 8, steps=12 - at)
    assert digest(late) == digest(whole[at:])


def test_resuming_decodes_nothing_that_it_skips(sets):
    loader = open_loader(section(sets["folder"], workers=0), seed=1)
    read, image = [], loader.supply.sets[0].image
    loader.supply.sets[0].image = lambda index: read.append(index) or image(index)
    batches = list(loader.start(Progress(step=3, images=24), lambda _: 32, 2))
    assert read == torch.cat([b.index for b in batches]).tolist()


def test_all_readers_give_the_same_order_boxes_and_nearly_the_same_pixels(sets):
    here = ["beton", "folder", *([] if ffcv_missing() else ["ffcv"])]
    streams = [stream(section(sets[reader], reader=reader, **PLAIN), steps=5) for reader in here]
    for batches in zip(*streams, strict=True):
        assert all(torch.equal(b.index, batches[0].index) for b in batches)
        for other in batches[1:]:
            # FFCV decodes with the fast transform, and sums in another order
            assert (other.images.float() - batches[0].images.float()).abs().mean() < 1.5


def test_every_seed_and_epoch_cuts_its_own_views(sets):
    one = section(sets["folder"], images_per_step=40, **PLAIN)
    pictures = [stream(one, steps=2, seed=seed) for seed in (0, 1)]
    by_image = [b.images[b.index.argsort()] for batches in pictures for b in batches]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(by_image, 2))


def test_a_mixture_names_the_data_set_of_each_image(sets, tmp_path):
    other = tree(tmp_path / "other", 10, height=30, width=30)
    data = section(
        sets["beton"], train=[{"path": sets["beton"]}, {"path": str(other), "weight": 2}], images_per_step=12
    )
    loader = open_loader(data, seed=0)
    assert loader.images_per_epoch == 60
    batches = list(loader.start(Progress(), lambda _: 32, 5))
    index, domain = torch.cat([b.index for b in batches]), torch.cat([b.domain for b in batches])
    assert sorted(index[domain == 0].tolist()) == list(range(40))
    assert sorted(index[domain == 1].tolist()) == sorted([*range(10), *range(10)])


def test_sizes_follow_the_step_on_every_rank(sets):
    sizes = [32, 48, 64]
    batches = stream(section(sets["beton"]), world=2, steps=6, size=lambda step: sizes[step % 3])
    assert [b.images.shape[-1] for b in batches] == [32, 48, 64, 32, 48, 64]


def test_an_oblong_size_is_refused(sets):
    loader = open_loader(section(sets["beton"]), seed=0)
    with pytest.raises(DataError, match=r"size \(224, 336\): images are square"):
        next(loader.start(Progress(), lambda _: (224, 336), 1))


@pytest.mark.parametrize(
    ("options", "world", "text"),
    [
        ({}, 3, "data.images_per_step: 8 images do not divide over 3 ranks"),
        ({"micro_batch": 3}, 2, "data.micro_batch: 3 does not divide a rank's 4 images"),
        ({"train": ["/nowhere"]}, 1, "/nowhere: no such file or folder"),
        ({"images_per_step": 64}, 1, "an epoch has 40 images, fewer than one step takes"),
        ({"reader": "folder"}, 1, "a file, which 'folder' does not read"),
        ({"reader": "ffcv", "resize": "bicubic"}, 1, "cannot run" if ffcv_missing() else "FFCV resizes by area only"),
        ({"max_resolution": 64}, 1, "stores images of up to 80 pixels, data.max_resolution is 64"),
    ],
)
def test_what_cannot_work_is_said_at_open(sets, options, world, text):
    with pytest.raises((DataError, RecipeError), match=text.replace("(", r"\(")):
        open_loader(section(sets["beton"], **options), seed=0, world=world)


def test_a_bicubic_recipe_is_read_without_ffcv(sets):
    assert open_loader(section(sets["beton"], resize="bicubic"), seed=0).supply.sets[0].reader == "beton"
    fastest = "beton" if ffcv_missing() else "ffcv"
    assert open_loader(section(sets["beton"]), seed=0).supply.sets[0].reader == fastest


def test_the_choice_of_reader_and_the_memory_are_told(sets, heard):
    loader = open_loader(section(sets["beton"]), seed=0)
    loader.start(Progress(), lambda _: 32, 1).close()
    told = "\n".join(heard)
    assert "40 images, reader beton" in told if ffcv_missing() else "40 images, reader ffcv" in told
    assert "MiB per rank" in told


# --- images that cannot be decoded ----------------------------------------------------------------


@pytest.fixture
def broken(sets, tmp_path):
    """A folder and a beton in which image 5 lost its second half."""
    source = tree(tmp_path / "tree", 24)
    packed = beton(tmp_path, source)
    image = Beton(packed)
    with open(packed, "r+b") as stream:
        stream.seek(int(image.at[5] + image.sizes[5] // 2))
        stream.write(bytes(int(image.sizes[5] - image.sizes[5] // 2)))
    file = source / image_name(source, 5)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return {"folder": source, "beton": packed, "ffcv": packed}


def image_name(source, index):
    from unicscale.data.sets.folder import listing

    return listing(str(source))[0][index]


@pytest.mark.parametrize("reader", READERS[:2])
def test_garbage_inside_a_jpeg_is_named_and_replaced_by_the_same_image_on_any_world(tmp_path, reader, heard):
    packed = beton(tmp_path, tree(tmp_path / "tree", 24))
    whole = digest(stream(section(packed, reader=reader), steps=3))
    spoil(packed, 5)
    data = section(packed, reader=reader, max_bad=0.1)
    seen = {digest(stream(data, world=world, steps=3)) for world in (1, 2, 4)}
    assert len(seen) == 1 and whole not in seen
    assert f"data: replaced image 5 ({packed}, sample 5 (class0/0015.jpg)): its bytes are not those" in "\n".join(heard)


@pytest.mark.parametrize("reader", READERS)
def test_a_corrupt_jpeg_is_named_and_replaced_by_the_same_image_on_any_world(broken, reader, heard):
    data = section(broken[reader], reader=reader, max_bad=0.1)
    seen = {digest(stream(data, world=world, steps=3)) for world in (1, 2, 4)}
    assert len(seen) == 1
    assert any("replaced image 5 (" in line for line in heard)


def spoil(packed, *numbers):
    """Forty bytes of garbage inside the pixels of some images."""
    images = Beton(packed)
    with open(packed, "r+b") as file:
        for number in numbers:
            file.seek(int(images.at[number] + images.sizes[number] * 3 // 4))
            file.write(np.random.default_rng(number).bytes(40))


def step_that_refuses(packed, limit):
    """Inside a rank: the step after which too many images had to be replaced, and what was said."""
    world = World.start(EngineSection(device="cpu"))
    loader = open_loader(section(packed, reader="beton", max_bad=limit), seed=1, rank=world.rank, world=world.size)
    step, batches = 0, loader.start(Progress(), lambda _: 32, 3)
    try:
        for _ in batches:
            step += 1
            if world.agreed(stop=False, save=False, tell=loader.damage.unjudged)[2]:
                loader.damage.judge(world.gather_objects)
    except DataError as problem:
        return step, str(problem)
    finally:
        loader.close()
        world.close()
    return None


def test_how_many_images_are_bad_does_not_depend_on_who_read_them(tmp_path):
    packed = beton(tmp_path, tree(tmp_path / "tree", 24))
    spoil(packed, *range(0, 24, 4))
    for allowed in (1, 4, 5, 6):
        limit = (allowed + 0.5) / 24
        alone = ranks.run(1, step_that_refuses, packed, limit)
        both = ranks.run(2, step_that_refuses, packed, limit)
        assert both == alone * 2
        assert (alone == [None]) == (allowed == 6)
        if allowed == 5:
            assert alone[0][1].startswith("6 images cannot be decoded, data.max_bad allows 5:\n  image 0 (")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("world", [1, 2])
def test_more_corrupt_jpegs_than_allowed_stop_the_run(broken, reader, world):
    with pytest.raises(DataError, match=r"1 images cannot be decoded, data.max_bad allows 0:\n  image 5 \("):
        stream(section(broken[reader], reader=reader, max_bad=0.01), world=world, steps=3)


def test_a_beton_that_shrinks_while_it_is_read_is_an_error_and_no_crash(tmp_path):
    packed = beton(tmp_path, tree(tmp_path / "tree", 24))
    for reader in ("auto", "beton"):
        loader = open_loader(section(packed, reader=reader), seed=0)
        whole = Path(packed).read_bytes()
        with open(packed, "r+b") as stream:
            stream.truncate(4096)
        with pytest.raises(DataError, match="became shorter while it was being read"):
            list(loader.start(Progress(), lambda _: 32, 3))
        Path(packed).write_bytes(whole)


# --- threads ----------------------------------------------------------------------------------------


class Slow:
    """Images that stop answering at number 3, or raise there."""

    path, reader, channels, labels, classes = "slow", "slow", 3, None, []

    def __init__(self, problem):
        self.problem = problem

    def __len__(self):
        return 16

    def name(self, index):
        return f"file {index}"

    def image(self, index):
        if index == 3:
            self.problem()
        return picture(index)

    def scratch_bytes(self):
        return 0

    def close(self):
        pass


@pytest.mark.parametrize("count", [0, 2])
def test_what_a_thread_raises_names_the_image(sets, count):
    def fail():
        raise MemoryError("no more")

    loader = open_loader(section(sets["beton"], workers=count), seed=0)
    loader.supply.sets[:] = [Slow(fail)]
    with pytest.raises(DataError, match=r"rank 0: image 3 \(file 3\): MemoryError: no more"):
        list(loader.start(Progress(), lambda _: 32, 5))


def test_a_stall_is_an_error_that_names_the_image(sets, monkeypatch):
    monkeypatch.setattr(workers, "STALL_SECONDS", 0.5)
    wait = threading.Event()
    loader = open_loader(section(sets["beton"]), seed=0)
    loader.supply.sets[:] = [Slow(lambda: wait.wait(20))]
    start = time.monotonic()
    with pytest.raises(DataError, match=r"stands still: .*\n  waiting for image 3 \(file 3\)"):
        list(loader.start(Progress(), lambda _: 32, 5))
    assert time.monotonic() - start < 10
    wait.set()


def test_the_promise_of_twenty_seconds_holds():
    assert workers.STALL_SECONDS + 1.0 < 20


def test_leaving_early_ends_the_threads(sets):
    before = set(threading.enumerate())
    loader = open_loader(section(sets["beton"], workers=4), seed=0)
    with loader.start(Progress(), lambda _: 32, 100) as batches:
        next(batches)
    next(loader.start(Progress(), lambda _: 32, 100))
    loader.close()
    assert {t for t in threading.enumerate() if t.name.startswith("loader")} <= before


def test_batches_do_not_share_memory(sets):
    loader = open_loader(section(sets["beton"]), seed=0)
    batches = loader.start(Progress(), lambda _: 32, 30)
    first = next(batches)
    kept = first.images.clone()
    for _ in batches:
        pass
    assert torch.equal(first.images, kept)


def test_workers_follow_the_affinity_of_the_process(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert workers.cores() == 8  # bound by Slurm: all of them are this rank's
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)))
    assert workers.cores() == 16  # unbound: shared with the other ranks


def test_jobs_waiting_at_close_are_dropped():
    pool, done = Workers(1), []
    gate = threading.Event()
    pool.submit(gate.wait)
    futures = [pool.submit(lambda: done.append(1)) for _ in range(5)]
    threading.Timer(0.2, gate.set).start()
    pool.close()
    assert all(f.cancelled() for f in futures) and not done


@needs_ffcv
def test_a_raw_beton_gives_the_same_views_as_its_folder(tmp_path):
    source = tmp_path / "png"
    source.mkdir()
    from PIL import Image

    for number in range(16):
        Image.fromarray(picture(number)).save(source / f"{number:02d}.png")
    pack(str(source), str(tmp_path / "raw.beton"), Form(mode="raw"))
    streams = [
        stream(section(path, reader=reader, **PLAIN))
        for path, reader in [(source, "folder"), (tmp_path / "raw.beton", "beton"), (tmp_path / "raw.beton", "ffcv")]
    ]
    assert digest(streams[0]) == digest(streams[1])
    for a, b in zip(streams[0], streams[2], strict=True):
        assert (a.images.int() - b.images.int()).abs().max() <= 1
