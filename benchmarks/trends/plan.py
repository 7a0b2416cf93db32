"""What the study compares: methods, pools of images, and cells (one training run and its probes each), in the order they are run.

A *replicate* is one independent whole: a generator with a fit seed of its own (the first is the embedded one), its own draw of
captions and its own noise. Every method sees the same captions of a replicate. A cell is one method on one pool with one training
seed; *choose* cells pick the learning rate on training images that are held out, and every other cell is scored once on the test
images.

Budgets are equal for all methods: views through the trunk in a step, and steps.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

RECIPE = "paper_trends"
GUIDANCE = 2.0
DEFAULT_LR = 4e-3


@dataclass(frozen=True)
class Method:
    """A way to learn from a pool; `words` are overrides of the recipe, `images` are what it learns from."""

    title: str
    words: str
    images: str = "synthetic"
    views_per_image: int = 1
    is_grouped: bool = False  # several images of a caption in a batch


METHODS: Mapping[str, Method] = {
    "stablerep": Method("StableRep", "pretrain.text_weight=0", is_grouped=True),
    "stablerep_plus": Method("StableRep+", "pretrain.text_weight=1", is_grouped=True),
    "simclr": Method("SimCLR, the same synthetic images", "pretrain.objective=simclr", views_per_image=2),
    "clip_synthetic": Method("CLIP, synthetic images", "pretrain.objective=clip"),
    "clip_real": Method("CLIP, real images, the same captions", "pretrain.objective=clip", images="real"),
    "supervised": Method("supervised, real images of the same captions", "pretrain.objective=supervised", images="real"),
    "shuffled": Method("StableRep, images shuffled over captions", "pretrain.text_weight=0", images="shuffled", is_grouped=True),
}
TUNED = ("stablerep", "simclr", "stablerep_plus", "clip_real")
CORE = ("stablerep", "simclr", "stablerep_plus", "clip_real", "clip_synthetic")
CONTROLS = ("shuffled", "supervised")
AS = {"shuffled": "stablerep", "clip_synthetic": "clip_real"}  # whose learning rate a method takes that has none of its own


@dataclass(frozen=True)
class Pool:
    """Groups of images: `images` are synthetic, real or shuffled; `captions` name the class always, in half of the captions, or never."""

    images: str
    replicate: int
    guidance: float = GUIDANCE
    captions: str = "always"
    images_per_caption: int = 8

    @property
    def key(self) -> str:
        """A name for files."""
        return f"{self.images}-r{self.replicate}-g{self.guidance:g}-{self.captions}-m{self.images_per_caption}"


@dataclass(frozen=True)
class Cell:
    """One training run and its probes."""

    part: str  # choose, main, control, images, guidance, captions, length
    method: str
    pool: Pool
    seed: int
    lr: float
    images_per_caption: int  # in a batch
    num_steps: int = 0  # 0: as the recipe says

    @property
    def key(self) -> str:
        """A name for files, of everything that decides the result."""
        length = f"-n{self.num_steps}" if self.num_steps else ""
        return f"{self.part}-{self.method}-{self.pool.key}-b{self.images_per_caption}-lr{self.lr:g}-s{self.seed}{length}"


@dataclass(frozen=True)
class Study:
    """The size of everything; `words` are overrides for every cell and pool."""

    num_replicates: int = 3
    num_seeds: int = 3
    learning_rates: tuple[float, ...] = (2e-3, 4e-3, 8e-3)
    tuned: tuple[str, ...] = TUNED
    core: tuple[str, ...] = CORE
    controls: tuple[str, ...] = CONTROLS
    views_per_step: int = 128
    images_in_batch: int = 4
    images_in_pool: int = 8
    images_in_small_pool: int = 4
    numbers_of_images: tuple[int, ...] = (2, 8, 6)
    guidances: tuple[float, ...] = (2.0, 8.0, 1.0, 4.0)
    captions: tuple[str, ...] = ("never", "half")
    longer_steps: int = 600  # 0: no longer runs
    words: str = ""

    def main_pool(self, method: str, replicate: int) -> Pool:
        """What a method learns from in the main table."""
        images = METHODS[method].images
        return Pool(images, replicate, images_per_caption=1 if images == "real" else self.images_in_pool)

    def small_pool(self, replicate: int, guidance: float = GUIDANCE, captions: str = "always") -> Pool:
        """What the ablations that need a pool of their own learn from: half the images."""
        return Pool("synthetic", replicate, guidance, captions, self.images_in_small_pool)


def choose_cells(study: Study) -> Iterator[Cell]:
    """Every learning rate of every tuned method, on the first replicate, with a training seed that is used nowhere else."""
    for method in study.tuned:
        for lr in study.learning_rates:
            yield _cell(study, "choose", method, study.main_pool(method, 0), study.num_seeds, lr)


def scored_cells(study: Study, chosen: Mapping[str, float]) -> Iterator[Cell]:
    """Everything that is scored on test images, the main table first, one training seed after another."""

    def cell(part: str, method: str, pool: Pool, seed: int, number: int = 0) -> Cell:
        return _cell(study, part, method, pool, seed, learning_rate(method, chosen), number)

    replicates = range(study.num_replicates)
    for seed in range(study.num_seeds):
        for method in study.core:
            yield from (cell("main", method, study.main_pool(method, k), seed) for k in replicates)
        if seed == 0:
            for method in study.controls:
                yield from (cell("control", method, study.main_pool(method, k), seed) for k in replicates)
    for number in study.numbers_of_images[:1]:
        yield from (cell("images", "stablerep", study.main_pool("stablerep", k), 0, number) for k in replicates)
    for captions in study.captions[:1]:
        yield from _pairs(study, cell, captions)
    for number in study.numbers_of_images[1:2]:
        yield from (cell("images", "stablerep", study.main_pool("stablerep", k), 0, number) for k in replicates)
    for guidance in study.guidances:
        yield from (cell("guidance", "stablerep", study.small_pool(k, guidance), 0) for k in replicates)
    if study.captions:
        yield from (cell("captions", "simclr", study.small_pool(k), 0) for k in replicates)
    for number in study.numbers_of_images[2:]:
        yield from (cell("images", "stablerep", study.main_pool("stablerep", k), 0, number) for k in replicates)
    for method in study.core if study.longer_steps else ():
        yield from (replace(cell("length", method, study.main_pool(method, k), 0), num_steps=study.longer_steps) for k in replicates)
    for captions in study.captions[1:]:
        yield from _pairs(study, cell, captions)
    for seed in range(1, study.num_seeds):
        for method in study.controls:
            yield from (cell("control", method, study.main_pool(method, k), seed) for k in replicates)


def _pairs(study: Study, cell: Callable[[str, str, Pool, int], Cell], captions: str) -> Iterator[Cell]:
    for k in range(study.num_replicates):
        yield from (cell("captions", method, study.small_pool(k, captions=captions), 0) for method in ("stablerep", "simclr"))


def learning_rate(method: str, chosen: Mapping[str, float]) -> float:
    """The chosen rate, or that of the method it takes after; supervised training has the default, which was not tuned."""
    return chosen.get(AS.get(method, method), DEFAULT_LR)


def choose(scores: Mapping[tuple[str, float], float]) -> dict[str, float]:
    """The best rate of each method by its accuracy on held-out training images; ties go to the lower rate."""
    best: dict[str, tuple[float, float]] = {}
    for (method, lr), score in scores.items():
        best[method] = max(best.get(method, (-1.0, 0.0)), (score, -lr))
    return {method: -negative_lr for method, (_, negative_lr) in best.items()}


def words_of(cell: Cell, study: Study) -> str:
    """The overrides of the recipe that make a cell's training run."""
    method = METHODS[cell.method]
    captions = study.views_per_step // (cell.images_per_caption * method.views_per_image)
    n = cell.num_steps
    length = f"pretrain.num_steps={n} pretrain.warmup_steps={n * 8 // 100} pretrain.checkpoint_every_steps={n}" if n else ""
    return (
        f"{pool_words(cell.pool, study)} {length} {method.words} pretrain.seed={cell.seed} pretrain.lr={cell.lr:g} "
        f"pretrain.captions_per_batch={captions} pretrain.images_per_caption={cell.images_per_caption}"
    )


def pool_words(pool: Pool, study: Study) -> str:
    """The overrides of the recipe that make a pool."""
    is_real, k = pool.images == "real", pool.replicate
    model = "generator.model=real:mnist" if is_real else f"generator.fit=true generator.fit_seed={k}" if k else ""
    # a pool of single images is no configuration for StableRep: the recipe refuses it, whatever the pool is for
    objective = "pretrain.objective=clip pretrain.images_per_caption=1" if pool.images_per_caption == 1 else ""
    return (
        f"{study.words} captions.seed={k} generate.noise_seed={k} generate.guidance={pool.guidance:g} {model} {objective} "
        f"generate.images_per_caption={pool.images_per_caption} gate.has_catalogue=false "
        "quality.allow_low_purity=true"  # groups that mix things are a part of the study
    )


def _cell(study: Study, part: str, method: str, pool: Pool, seed: int, lr: float, number: int = 0) -> Cell:
    grouped = METHODS[method].is_grouped
    return Cell(part, method, pool, seed, lr, (number or study.images_in_batch) if grouped else 1)


TINY = Study(
    num_replicates=1,
    num_seeds=1,
    learning_rates=(4e-3,),
    tuned=("clip_real",),
    core=("stablerep",),
    controls=(),
    views_per_step=16,
    images_in_pool=4,
    numbers_of_images=(),
    guidances=(),
    captions=(),
    longer_steps=0,
    words="captions.num_captions=30 captions.captions_per_shard=30 generate.num_inference_steps=2 generate.batch_size=30 "
    "pretrain.num_steps=5 pretrain.warmup_steps=1 pretrain.checkpoint_every_steps=5 probe.num_draws=2 probe.num_epochs=5",
)
