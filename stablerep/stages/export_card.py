"""The card and the lineage of an exported encoder: facts that are known when it is made, each with the id it came from.

Results come later: `card_results` fills their section in, `lineage` adds evaluations and endpoints. No times and no places here, so equal
runs give equal bytes.
"""

import json
from dataclasses import dataclass
from typing import Any

from stablerep.config.schema import PretrainConfig
from stablerep.groups.resolve import is_real
from stablerep.records import CheckpointRef, GeneratorRef, ModelRef
from stablerep.stages.card_results import LIMITS, NOT_MEASURED, RESULTS
from stablerep.stages.pretrain_run import RunConfig, decisive_settings

_LEARNT = {
    "multi_positive": "learnt that several images of a caption belong together (StableRep).",
    "simclr": "learnt that two views of an image belong together, whatever its caption (SimCLR, a baseline).",
    "synclr": "learnt that several images of a caption belong together, from a teacher and from hidden patches (SynCLR).",
    "clip": "learnt which caption an image belongs to (CLIP, a baseline).",
    "supervised": "learnt the classes of captions from their images (supervised, a baseline).",
}
_SAW = {
    "synthetic": "Its images were made from captions by a text-to-image model; it saw no real image.",
    "real": "Its images are real training images, chosen by the classes of captions; no image was made by a model.",
}
_INHERITS = {
    "synthetic": "The encoder knows what its generator can draw and inherits the generator's biases and the terms of its licence.",
    "real": "The encoder inherits the biases of its images and the terms of their licence.",
}
_MEASURED = {
    "synthetic": "Where the generator was fitted on images of the kind that the probes use, the results say that the parts work "
    "together, not that synthetic images replace real ones in general.",
    "real": "The images are real: this is a baseline to compare encoders from synthetic images with.",
}
_TEXT_USE = "Texts and images share a space: zero-shot labels and search by text, for texts like the captions."


@dataclass(frozen=True)
class Origin:
    """Where an encoder comes from."""

    plan: RunConfig
    generator: GeneratorRef
    checkpoint: CheckpointRef
    captions_sha256: str


def _objective_words(pretrain: PretrainConfig) -> str:
    text = f" + {pretrain.text_weight:g} x image-text" if pretrain.text_weight else ""
    words = {
        "multi_positive": f"multi-positive contrastive{text}, temperature {pretrain.temperature:g} (arXiv 2306.00984)",
        "simclr": f"SimCLR's NT-Xent, temperature {pretrain.temperature:g} (arXiv 2002.05709)",
        "synclr": f"SynCLR: teacher keys, small crops, masked patches, temperature {pretrain.temperature:g} (arXiv 2312.17742)",
        "clip": "CLIP's image-text loss (arXiv 2103.00020)",
        "supervised": "cross entropy of the captions' classes",
    }
    return words[pretrain.objective]


def training_facts(origin: Origin) -> dict[str, Any]:
    """What config.json says of the training; part of the model's id."""
    dataset, final = origin.plan.dataset, origin.checkpoint
    return {
        "run_key": final.run_key,
        "num_steps": final.step,
        "losses": final.metrics,
        "dataset_id": dataset.dataset_id,
        "generator_id": dataset.generator_id,
        "prompt_set_id": dataset.prompt_set_id,
        "weights_sha256": final.sha256,
    }


def lineage_json(origin: Origin, model: ModelRef) -> str:
    """Captions -> data set -> generator -> run -> model, ids and digests."""
    dataset, generator, final = origin.plan.dataset, origin.generator, origin.checkpoint
    chain = {
        "captions": {"prompt_set_id": dataset.prompt_set_id, "manifest_sha256": origin.captions_sha256},
        "generator": {
            "generator_id": generator.generator_id,
            "sha256": generator.sha256,
            "revision": generator.revision,
            "licence": generator.licence,
            "pipeline_class": generator.pipeline_class,
        },
        "dataset": {
            "dataset_id": dataset.dataset_id,
            "manifest_sha256": dataset.manifest_sha256,
            "num_groups": dataset.num_groups,
            "num_images": dataset.num_images,
        },
        "run": {"run_key": final.run_key, "fingerprint": final.fingerprint, "step": final.step, "weights_sha256": final.sha256},
        "model": {"model_id": model.model_id, "encoder_sha256": model.sha256},
    }
    return json.dumps(chain, indent=1, sort_keys=True) + "\n"


def _quality_words(quality: dict[str, float]) -> str:
    """What was checked of the groups."""
    if not quality:
        return "not measured beyond what the data set's manifest says"
    return "checked by " + ", ".join(f"{name} {value}" for name, value in _quality_facts(quality).items())


def _quality_facts(quality: dict[str, float]) -> dict[str, str]:
    """Measures by name, with their intervals where they have some."""
    facts: dict[str, str] = {}
    for name in sorted(quality):
        if (of := name.rpartition("_")[0]) in quality and name in (f"{of}_low", f"{of}_high"):
            continue
        ends = [quality[end] for end in (f"{name}_low", f"{name}_high") if end in quality]
        interval = f" [{ends[0]:.4g}, {ends[1]:.4g}]" if len(ends) == 2 else ""
        facts[name.replace("_", " ")] = f"{quality[name]:.4g}{interval}"
    return facts


def model_card(origin: Origin, model: ModelRef) -> str:
    """The card as Markdown."""
    pretrain, dataset, generator = origin.plan.pretrain, origin.plan.dataset, origin.generator
    made = "real" if is_real(generator.uri) else "synthetic"
    facts = {
        "Encoder": f"{model.architecture}, {model.size_px} px, {model.embedding_dim} features (CLS token)",
        "Text tower": "yes: captions and images share a space" if model.has_text else "no",
        "Objective": _objective_words(pretrain),
        "Training images": f"{dataset.num_images:,} {made} images of {dataset.num_groups:,} captions (`{dataset.dataset_id}`)",
        "Captions": f"`{dataset.prompt_set_id}`",
        "Generator": f"`{generator.generator_id}` ({generator.pipeline_class}, revision {generator.revision or 'none'})",
        "Licence of the generator": generator.licence or "not stated",
        "Recipe": f"`{origin.plan.recipe}`, run `{origin.plan.run_key}`",
        "Steps": f"{origin.checkpoint.step:,} of {pretrain.captions_per_batch} captions x {pretrain.images_per_caption} images"
        + (f" x {pretrain.views_per_image} views" if pretrain.views_per_image > 1 else ""),
        "Optimiser": f"AdamW, ZeRO stage {pretrain.zero_stage}, {pretrain.num_processes} processes, {pretrain.precision}",
    }
    if pretrain.ema_decay:
        facts["Weights"] = f"exponential moving average, decay {pretrain.ema_decay:g}; the losses are of the weights it averages"
    facts |= {name.replace("_", " ").capitalize(): f"{value:.4f}" for name, value in sorted(origin.checkpoint.metrics.items())}
    facts |= {f"Data set: {name}": value for name, value in _quality_facts(dataset.quality).items()}
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    settings = json.dumps(decisive_settings(pretrain), indent=1, sort_keys=True)
    return f"""# {model.model_id}

A vision encoder that {_LEARNT[pretrain.objective]} {_SAW[made]} The losses are means over the last tenth of the training.

| | |
|---|---|
{rows}

Images are prepared as `preprocessor.json` says; `SHA256SUMS` lists every file that decides an embedding (`sha256sum -c SHA256SUMS`);
`lineage.json` names what this model was made from and where it was served.

{RESULTS}
{NOT_MEASURED}
{LIMITS}
- One training run with seed {pretrain.seed} on one data set of one generator. The intervals above are over test images and draws of labels;
  they say nothing of another seed, data set or generator.
- {_INHERITS[made]}
- {_MEASURED[made]}
- Captions were not read by people. Groups were {_quality_words(dataset.quality)}.

## Intended use

Frozen features for classification with few labels, k-NN, retrieval and near-duplicate search, on images like those it was trained and
measured on. {_TEXT_USE if model.has_text else "It has no text tower: it cannot score texts."}
Measure it on your own images first: `stablerep probe --set probe.dataset=<folder>`. Not intended for decisions about people, nor for images
unlike those above without a probe on them. The terms of the generator's licence ({generator.licence or "not stated"}) and of the captions
apply to what is made with this encoder.

## Settings

```json
{settings}
```
"""
