"""What `commit` finds out about the groups before anything is trained on them: purity, diversity, agreement; and what follows from it.

Measured once for a data set and a judge, and kept in `quality.json` beside the manifest with the page that people look at. Low purity
warns, very low purity refuses: in the study behind the thresholds groups of purity .95 and more beat SimCLR, .92 was parity, .76 and less
lost.
"""

import dataclasses
import io
import logging
import random
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from stablerep.config.schema_quality import QualityConfig
from stablerep.errors import DataError
from stablerep.records import DatasetRef, GeneratorRef, Record
from stablerep.shards.dataset import read_spec
from stablerep.shards.manifest import Manifest
from stablerep.shards.read import GroupDataset
from stablerep.stages.context import Stage
from stablerep.stages.quality import chosen_judge

if TYPE_CHECKING:
    from stablerep.groups.quality_page import AgreementSummary
    from stablerep.groups.sampler import ImageHW3

log = logging.getLogger("stablerep")

SCANNED_GROUPS = 2000  # whose scores are read for the histogram and the best and worst groups
UNMEASURED = "unmeasured"


@dataclass(frozen=True)
class DatasetQuality(Record):
    """quality.json: by whom, over how many groups, and what was found; means with 95 % intervals over groups."""

    judge: str
    judge_identity: str
    num_judged_groups: int
    is_labelled: bool = False
    verdict: str = ""  # the sentence of the last commit; other limits give another
    values: dict[str, float] = field(default_factory=dict[str, float])  # purity, purity_low ... diversity_high, agreement

    @property
    def is_measured(self) -> bool:
        """Whether a judge looked at the groups."""
        return "purity" in self.values


def spread(num_groups: int, count: int) -> list[int]:
    """At most `count` positions, one at a random place of each equal part (captions often come in cycles), and always the same."""
    count = min(count, num_groups)
    edges = [i * num_groups // max(count, 1) for i in range(count + 1)]
    chance = random.Random(num_groups)
    return [chance.randrange(first, last) for first, last in pairwise(edges)]


def measure_quality(stage: Stage, dataset: DatasetRef, generator: GeneratorRef) -> DatasetQuality:
    """The quality of a committed data set; measured, and its page written, unless this judge did it before."""
    key, page_key = (f"groups/{dataset.dataset_id}/quality.{kind}" for kind in ("json", "html"))
    judge = chosen_judge(stage.recipe, generator)
    wanted = min(stage.recipe.quality.num_judged_groups, dataset.num_groups)
    identity = _identity(judge)
    found = _found(stage, key)
    is_known = found is not None and (found.judge_identity, found.num_judged_groups) == (identity, wanted)
    if found is None or not is_known or found.verdict != verdict(found, stage.recipe.quality)[1]:
        from stablerep.groups.quality_page import summarise

        groups = GroupDataset(stage.store, dataset, verify=False)
        summary = summarise(groups, spread(dataset.num_groups, SCANNED_GROUPS))
        measured = found if found and is_known else _measured(groups, judge, identity, wanted, summary)
        found = dataclasses.replace(measured, verdict=verdict(measured, stage.recipe.quality)[1])
        stage.store.write(page_key, _page(stage, dataset, groups, found, summary))
        stage.store.write(key, found.to_json())
    for name in ("purity", "diversity", "agreement"):
        if name in found.values:
            stage.reporter.report(f"stablerep_dataset_{name}_ratio", found.values[name])
    return found


def with_quality(dataset: DatasetRef, quality: DatasetQuality) -> DatasetRef:
    """The record of a data set that also says what was measured."""
    return dataclasses.replace(dataset, quality=dataset.quality | quality.values)


def verdict(quality: DatasetQuality, limits: QualityConfig) -> tuple[str, str]:
    """One of passed, warned, refused, lifted, unmeasured; and the sentence that says why."""
    if not quality.is_measured:
        return UNMEASURED, (
            "group purity is unmeasured: no judge is known for these images; set quality.judge to the folder of an embedding model (CLIP, "
            "DINO), so that groups which mix things are noticed before they are trained on"
        )
    values = quality.values
    purity = f"{values['purity']:.3f} [{values['purity_low']:.3f}, {values['purity_high']:.3f}]"
    said = f"group purity {purity} by {quality.judge} over {quality.num_judged_groups} groups"
    if values["purity"] >= limits.warn_purity:
        return "passed", f"{said}, at or above {limits.warn_purity:g}"
    if values["purity"] >= limits.min_purity:
        return "warned", f"{said}, below {limits.warn_purity:g}: images of a caption differ in what they show, which costs accuracy"
    if limits.allow_low_purity:
        return "lifted", f"{said}, below {limits.min_purity:g}, which quality.allow_low_purity=true lets pass"
    return "refused", f"{said}, below {limits.min_purity:g}"


def require_purity(quality: DatasetQuality, limits: QualityConfig, where: str) -> None:
    """Warn of low purity or stop the run before training is paid for.

    Raises:
        DataError: purity is below `quality.min_purity` and nobody lifted it.
    """
    outcome, sentence = verdict(quality, limits)
    if outcome == "refused":
        raise DataError(
            f"{where}: expected groups of purity {limits.min_purity:g} or more, found {sentence}; training on groups that mix things loses "
            "to SimCLR. Write captions that say what is shown, try guidance 2 and more steps, filter with quality.policy=regenerate and "
            "quality.min_group_agreement; or train all the same with quality.allow_low_purity=true"
        )
    (log.info if outcome == "passed" else log.warning)("commit: %s", sentence)


def decoded(groups: GroupDataset, position: int) -> "list[ImageHW3]":
    """The images of a group as pixels: uint8 [H,W,3]."""
    import numpy as np
    from PIL import Image

    images: list[ImageHW3] = []
    for data in groups.group(position).images:
        with Image.open(io.BytesIO(data)) as image:
            images.append(np.asarray(image.convert("RGB")))
    return images


def _found(stage: Stage, key: str) -> DatasetQuality | None:
    try:
        return DatasetQuality.from_json(stage.store.read_text(key)) if stage.store.exists(key) else None
    except DataError:  # of another version: measured again
        return None


def _identity(judge: str) -> str:
    if not judge:
        return ""
    from stablerep.groups.judge import judge_identity

    return judge_identity(judge)


def _measured(groups: GroupDataset, judge: str, identity: str, wanted: int, summary: "AgreementSummary | None") -> DatasetQuality:
    values = {} if summary is None else {"agreement": summary.mean}
    nobody = DatasetQuality(judge, identity, wanted, values=values)
    if not judge:
        return nobody
    from stablerep.groups.judge import measure, open_judge

    chosen = [position for position in spread(groups.num_groups, wanted) if groups.num_images(position) >= 2]
    if len(chosen) < 2:
        return nobody
    found = measure(open_judge(judge, "auto"), [decoded(groups, position) for position in chosen])
    for name, estimate in (("purity", found.purity), ("diversity", found.diversity)):
        values |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return dataclasses.replace(nobody, is_labelled=found.is_labelled, values=values)


def _page(stage: Stage, dataset: DatasetRef, groups: GroupDataset, quality: DatasetQuality, summary: "AgreementSummary | None") -> str:
    from stablerep.groups.quality_page import NUM_SHOWN, Shown, quality_html

    counts = Manifest.from_json(stage.store.read_text(f"groups/{dataset.dataset_id}/manifest.json")).counts
    inspection: dict[str, Any] = read_spec(stage.store, dataset.dataset_id)["sampler"].get("inspection", {})
    ordered = summary.ordered if summary else []
    shown = [
        Shown(title, [(groups.group(position), score) for position, score in chosen])
        for title, chosen in (("Best agreement", ordered[::-1][:NUM_SHOWN]), ("Worst agreement", ordered[:NUM_SHOWN]))
        if chosen
    ]
    outcome, sentence = verdict(quality, stage.recipe.quality)
    return quality_html(
        outcome=outcome,
        sentence=sentence,
        values=quality.values,
        counts=counts,
        inspection=inspection,
        summary=summary,
        shown=shown,
        is_labelled=quality.is_labelled,
    )
