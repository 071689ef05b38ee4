"""What encoders.py asks: one small model of every timm family, every vision type of transformers, all of open_clip."""

from __future__ import annotations

from typing import Any

# the smallest of each of timm's model modules, as far as names tell
TIMM = """
beit: beit_base_patch16_224; byoanet: halonet_h1; byobnet: test_byobnet; cait: cait_xxs24_224; coat: coat_tiny;
convit: convit_tiny; convmixer: convmixer_768_32; convnext: test_convnext; cpubone: cpubone_nano;
crossvit: crossvit_tiny_240; csatv2: csatv2; cspnet: cs3darknet_focus_s; cspnext: cspnext_tiny; davit: davit_tiny;
deepseek_vit: deepseek_vit_412m; deit: deit_tiny_patch16_224; densenet: densenet121; dla: dla34; dpn: dpn68;
edgenext: edgenext_x_small; efficientformer: efficientformer_l1; efficientformer_v2: efficientformerv2_s0;
efficientnet: test_efficientnet; efficientvim: efficientvim_m1; efficientvit_mit: efficientvit_b0;
efficientvit_msra: efficientvit_m0; eva: eva02_tiny_patch14_224; fasternet: fasternet_t0; fastvit: fastvit_t8;
focalnet: focalnet_tiny_srf; gcvit: gcvit_xxtiny; gemma4_vit: gemma4_vit_167m; ghostnet: ghostnet_050;
hardcorenas: hardcorenas_b; hgnet: hgnetv2_b0; hiera: hiera_tiny_224; hieradet_sam2: sam2_hiera_tiny;
hrnet: hrnet_w18_small; iformer: iformer_t; inception_next: inception_next_atto;
inception_resnet_v2: inception_resnet_v2; inception_v3: inception_v3; inception_v4: inception_v4;
lcnetv2: lcnetv2_small; levit: levit_128s; lowformer: lowformer_b0; mambaout: test_mambaout; maxxvit: test_coatnet;
metaformer: caformer_s18; mlp_mixer: gmlp_ti16_224; mobilenetv3: mobilenetv3_small_050;
mobilenetv5: mobilenetv5_base; mobilevit: mobilevit_xxs; mvitv2: mvitv2_tiny;
naflexvit: naflexvit_base_patch16_siglip; nasnet: nasnetalarge; nest: nest_tiny; nextvit: nextvit_small;
nfnet: test_nfnet; pit: pit_ti_224; pnasnet: pnasnet5large; pvt_v2: pvt_v2_b0; qwen3_vit: qwen3_vit_88m;
rdnet: rdnet_tiny; regnet: regnetx_004_tv; repghost: repghostnet_050; repvit: repvit_m1; res2net: res2next50;
resnest: resnest14d; resnet: test_resnet; resnetv2: resnetv2_18; rexnet: rexnet_100; selecsls: selecsls42;
senet: legacy_seresnet18; sequencer: sequencer2d_s; shvit: shvit_s1; sknet: skresnet18; starnet: starnet_s050;
swiftformer: swiftformer_xs; swin_transformer: swin_tiny_patch4_window7_224;
swin_transformer_v2: swinv2_tiny_window8_256; swin_transformer_v2_cr: swinv2_cr_tiny_224;
tiny_vit: tiny_vit_5m_224; tnt: tnt_s_legacy_patch16_224; tresnet: tresnet_m; twins: twins_svt_small; vgg: vgg11;
visformer: visformer_tiny; vision_transformer: test_vit; vision_transformer_hybrid: vit_tiny_r_s16_p8_224;
vision_transformer_relpos: test_vit_relpos; vision_transformer_sam: samvit_base_patch16; vitamin: vitamin_small_224;
volo: volo_d1_224; vovnet: ese_vovnet19b_slim_dw; xception: legacy_xception; xception_aligned: xception41;
xcit: xcit_nano_12_p8_224
"""

BLOCKS = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 64,
    "patch_size": 8,
}  # fmt: skip
# transformers' types whose encoder takes the numbers of BLOCKS, with what else makes them small
PLAIN: dict[str, dict[str, Any]] = {
    "aimv2_vision_model": {}, "altclip_vision_model": {}, "beit": {}, "blip_vision_model": {},
    "chinese_clip_vision_model": {}, "clip_vision_model": {}, "data2vec-vision": {}, "deit": {}, "dinov2": {},
    "dinov2_with_registers": {}, "dinov3_vit": {}, "groupvit_vision_model": {}, "ijepa": {}, "internvl_vision": {},
    "janus_vision_model": {}, "metaclip_2_vision_model": {}, "mlcd_vision_model": {"num_key_value_groups": 1},
    "owlv2_vision_model": {}, "owlvit_vision_model": {}, "pixio": {}, "radio": {}, "sam3_vit_model": {},
    "sam_vision_model": {"output_channels": 16, "window_size": 4, "global_attn_indexes": [1]}, "sapiens2": {},
    "siglip_vision_model": {}, "siglip2_vision_model": {"num_patches": 64}, "tipsv2_vision_model": {},
    "videomae": {}, "vit": {}, "vit_mae": {}, "vit_msn": {}, "vitdet": {}, "vitpose_backbone": {},
}  # fmt: skip
# whole models with an image encoder of BLOCKS inside
WHOLE = ("aimv2", "altclip", "blip", "chinese_clip", "clip", "janus", "metaclip_2", "siglip", "siglip2")
# built as their defaults say
DEFAULTS = (
    "bit", "clipseg", "convnext", "convnextv2", "cvt", "depth_anything", "dinat", "dinov3_convnext", "donut-swin",
    "dpt", "efficientnet", "flava", "focalnet", "glpn", "hgnet_v2", "hiera", "idefics3_vision", "imagegpt", "levit",
    "lw_detr_vit", "maskformer-swin", "mobilenet_v1", "mobilenet_v2", "mobilevit", "mobilevitv2", "perceiver",
    "poolformer", "pp_lcnet", "pvt", "pvt_v2", "regnet", "resnet", "rt_detr_resnet", "sam2_vision_model",
    "segformer", "seggpt", "swiftformer", "swin", "swinv2", "textnet", "timm_wrapper", "vilt", "yolos",
)  # fmt: skip


def timm_models() -> dict[str, dict[str, Any]]:
    """Family -> options of the plug-in."""
    pairs = (pair.split(":") for pair in TIMM.replace("\n", " ").split(";"))
    return {family.strip(): {"model": model.strip()} for family, model in pairs}


def hf_models() -> dict[str, dict[str, Any]]:
    """model_type -> options of the plug-in; the pixels of random weights may have any mean."""
    configs = {kind: {"model_type": kind, **BLOCKS, **more} for kind, more in PLAIN.items()}
    configs |= {kind: {"model_type": kind, "vision_config": BLOCKS} for kind in WHOLE}
    configs |= {kind: {"model_type": kind} for kind in DEFAULTS}
    return {kind: {"config": config, "mean": (0, 0, 0), "std": (1, 1, 1)} for kind, config in sorted(configs.items())}


def open_clip_models() -> dict[str, dict[str, Any]]:
    """All of its configurations, the image tower alone."""
    import open_clip

    return {name: {"model": name} for name in open_clip.list_models()}
