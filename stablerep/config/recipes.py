"""Named runs. `quickstart` and `smoke` need nothing but this machine; the others are the paper's settings for a cluster.

The paper's hyper-parameters are those of the released code and of section 4 of the paper (docs/paper.md says which); the embedded
recipes were measured on two CPU cores (docs/log.md).
"""

from dataclasses import replace

from stablerep.config.schema import (
    AugmentConfig,
    CaptionsConfig,
    DeployConfig,
    GateConfig,
    GenerateConfig,
    GeneratorConfig,
    HeadConfig,
    PretrainConfig,
    ProbeConfig,
    QualityConfig,
    Recipe,
    TextConfig,
    TrunkConfig,
)

_QUICKSTART = Recipe(
    name="quickstart",
    description="Handwritten digits from captions, on a laptop: 400 captions x 6 images, ViT with StableRep+, two processes.",
    captions=CaptionsConfig(source="packaged:mnist", num_captions=400, captions_per_shard=25, num_lanes=2),
    generator=GeneratorConfig(model="embedded:mnist"),
    generate=GenerateConfig(
        images_per_caption=6,
        scheduler="dpm++",
        num_inference_steps=8,
        guidance=2.0,
        batch_size=50,
        dtype="fp32",
        device="cpu",
        stored_size_px=32,
        image_format="png",
    ),
    pretrain=PretrainConfig(
        trunk=TrunkConfig("vit_tiny_patch16_224", size_px=32, patch_px=8, width=96, depth=4, num_heads=4, mlp_ratio=3.0),
        head=HeadConfig(num_layers=2, hidden_dim=256, out_dim=64),
        text=TextConfig("captions", 512, context_length=20, width=64, depth=2, num_heads=4, out_dim=64, projection="mlp"),
        augment=AugmentConfig(
            crop_scale_min=0.75,
            is_flipped=False,
            jitter_probability=1.0,
            hue=0.0,
            grey_probability=0.0,
            blur_probability=0.0,
            rotation_degrees=8.0,
            noise=0.1,
        ),
        captions_per_batch=64,
        images_per_caption=4,
        num_steps=300,
        warmup_steps=24,
        lr=4e-3,
        weight_decay=0.05,
        clip_norm=1.0,
        precision="fp32",
        checkpoint_every_steps=50,
        launch_timeout_seconds=3600,
    ),
    gate=GateConfig(min_over_random_init=0.10),
)

_SMOKE = replace(
    _QUICKSTART,
    name="smoke",
    description="Every task of the pipeline in little more than a minute: for tests, not for learning.",
    captions=replace(_QUICKSTART.captions, num_captions=48, captions_per_shard=12),
    generate=replace(_QUICKSTART.generate, images_per_caption=4, num_inference_steps=4, batch_size=48),
    quality=QualityConfig(allow_low_purity=True),  # four steps draw what four steps can
    pretrain=replace(
        _QUICKSTART.pretrain, captions_per_batch=16, images_per_caption=2, num_steps=12, warmup_steps=2, checkpoint_every_steps=4
    ),
    probe=ProbeConfig(labels_per_class=(5,), num_draws=2, num_epochs=10, num_bootstrap=100),
    gate=GateConfig(min_over_random_init=-1.0),
    deploy=DeployConfig(port=0, grpc_port=0),
)

_PAPER_TRENDS = replace(
    _QUICKSTART,
    name="paper_trends",
    description="The paper's comparisons in little (`make paper-trends`): 240 captions x 8 images of digits, 128 views a step.",
    captions=replace(_QUICKSTART.captions, num_captions=240, captions_per_shard=80, num_lanes=1),
    generator=replace(_QUICKSTART.generator, fit_num_vae_steps=250, fit_num_steps=1000),
    generate=replace(_QUICKSTART.generate, images_per_caption=8),
    pretrain=replace(
        _QUICKSTART.pretrain,
        trunk=replace(_QUICKSTART.pretrain.trunk, width=64, depth=3),
        text=replace(_QUICKSTART.pretrain.text, depth=1),
        text_weight=0.0,
        captions_per_batch=32,
        num_steps=200,
        warmup_steps=16,
        checkpoint_every_steps=200,
        num_processes=1,
    ),
    probe=ProbeConfig(probes=("linear",), num_epochs=60),
)

_SD15 = GeneratorConfig(model="stable-diffusion-v1-5/stable-diffusion-v1-5", licence="creativeml-openrail-m")

_CC3M = Recipe(
    name="cc3m_b16",
    description="The paper's StableRep on CC3M captions: SD 1.5, DDIM 50 steps, guidance 2, ViT-B/16, 32 GPUs.",
    captions=CaptionsConfig(source="s3://captions/cc3m.parquet", captions_per_shard=512, num_lanes=16),
    generator=_SD15,
    pretrain=PretrainConfig(text_weight=0.0, num_processes=32, num_nodes=4, num_workers=12),
    probe=ProbeConfig(dataset="s3://images/imagenet", labels_per_class=(-1,)),
)

# Paper settings (arXiv 2312.17742, section 4 and appendix): crops, teacher, masked patches, temperature, batch, rate, decay, betas,
# guidance, images per caption. Length of training and warm-up are not in the sources at hand: they are this project's choice.
_SYNCLR = replace(
    _CC3M,
    name="synclr_b16",
    description="SynCLR's settings on your captions: EMA teacher, 1 + 4 crops, masked patches, ViT-B/16, 64 GPUs.",
    captions=replace(_CC3M.captions, source="s3://captions/captions.parquet"),
    generate=GenerateConfig(guidance=2.5, images_per_caption=4),
    pretrain=replace(
        _CC3M.pretrain,
        objective="synclr",
        head=HeadConfig(norm="layer"),
        augment=AugmentConfig(crop_scale_min=0.32),
        temperature=0.08,
        captions_per_batch=8192,
        images_per_caption=4,
        num_steps=500_000,
        warmup_steps=10_000,
        lr=2e-3,
        weight_decay=0.04,
        weight_decay_end=0.2,
        beta2=0.999,
        num_processes=64,
        num_nodes=8,
        is_activation_checkpointed=True,
    ),
)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        _QUICKSTART,
        _SMOKE,
        _PAPER_TRENDS,
        _CC3M,
        replace(
            _CC3M,
            name="cc12m_b16",
            description="The paper's StableRep on CC12M captions, 1x schedule: 15 epochs of 8256 images.",
            captions=replace(_CC3M.captions, source="s3://captions/cc12m.parquet"),
        ),
        replace(
            _CC3M,
            name="cc12m_b16_language",
            description="The paper's StableRep+ on CC12M captions: multi-positive and language supervision, weights 1 and 1.",
            captions=replace(_CC3M.captions, source="s3://captions/cc12m.parquet"),
            pretrain=replace(_CC3M.pretrain, text_weight=1.0),
        ),
        replace(
            _CC3M,
            name="redcaps_b16",
            description="The paper's best ImageNet linear probe: RedCaps captions, guidance 3.",
            captions=replace(_CC3M.captions, source="s3://captions/redcaps.parquet"),
            generate=GenerateConfig(guidance=3.0),
        ),
        _SYNCLR,
    )
}
