"""`stablerep plan`: what a data set would cost with each preset, before anything is spent. Imports no model library, asks no cluster."""

from stablerep.config.presets import PRESETS
from stablerep.groups.cost import DECODING_TFLOP, EVALUATION_TFLOP, UTILISATION, cost, gpu_named, tflop_per_image
from stablerep.stages.context import configured

_HEADER = ("preset", "evaluations", "TFLOP/image", "images/s/GPU", "TFLOP/s/GPU", "GPU hours", "hours", "money")


def plan_table(
    recipe: str, overrides: str, *, captions: float, gpu: str, price: float, num_gpus: int = 1, utilisation: float = UTILISATION
) -> str:
    """A line for each preset, and one for the recipe as it stands; then what is measured, computed and assumed.

    Args:
        recipe: name of a recipe; images a caption and guidance are its.
        overrides: `section.key=value` words.
        captions: how many.
        gpu: name of a GPU, see `groups.cost`.
        price: of a GPU hour.
        num_gpus: that work at once.
        utilisation: share of what matrix products reach on the GPU.

    Raises:
        ConfigError: an unknown GPU, or numbers that cannot be.
    """
    kind, base = gpu_named(gpu), configured(recipe, overrides).generate
    rows: list[tuple[str, ...]] = [_HEADER]
    named = {name: (values["num_inference_steps"], values["num_base_steps"]) for name, values in PRESETS.items()}
    for name, (num_steps, num_base_steps) in {**named, "this recipe": (base.num_inference_steps, base.num_base_steps)}.items():
        tflop = tflop_per_image(num_steps, num_base_steps, base.guidance)
        found = cost(captions * base.images_per_caption, tflop, kind, price, utilisation)
        evaluations = round((tflop - DECODING_TFLOP) / EVALUATION_TFLOP)
        rows.append(
            (
                name,
                str(evaluations),
                f"{tflop:.1f}",
                f"{found.images_per_second:.1f}",
                f"{found.images_per_second * tflop:.0f}",
                f"{found.gpu_hours:,.0f}",
                f"{found.gpu_hours / max(num_gpus, 1):,.0f}",
                f"{found.money:,.0f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = ["  ".join(f"{cell:{'>' if i else '<'}{widths[i]}}" for i, cell in enumerate(row)) for row in rows]
    head = f"{captions:,.0f} captions x {base.images_per_caption} images, {num_gpus} x {kind.name}, {price:g} a GPU hour, SD 1.5 at 512 px"
    return "\n".join([head, "", *lines, "", *_grounds(kind.tflop_per_second, kind.source, utilisation, base.guidance)])


def _grounds(reached: float, source: str, utilisation: float, guidance: float) -> list[str]:
    how, _, why = source.partition(": ")
    return [
        f"computed: {EVALUATION_TFLOP} TFLOP an evaluation of the denoiser, {DECODING_TFLOP} a decoding; guidance {guidance:g}",
        f"{how}: matrix products reach {reached:.0f} TFLOP/s{f', {why}' if why else ''}",
        f"assumed: a lane reaches {100 * utilisation:g} % of that; a running lane reports its own (stablerep_generate_utilisation_ratio)",
        "not included: retries, loading, the store, idle nodes. sd15_lcm4 needs generator.lora.",
        "No fast preset is said to be equal to the paper's: few steps cost diversity within a group (stablerep compare-presets).",
    ]
