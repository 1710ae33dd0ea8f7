"""Configurations of diffusers: a step of denoising, counted as torch counts it."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from calib.errors import CalibError
from calib.trace.hf import load
from model.workload import Workload

pytest.importorskip("diffusers")

UNET = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 48,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
}
DIT = {
    "_class_name": "DiTTransformer2DModel",
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "sample_size": 16,
    "num_embeds_ada_norm": 10,
}
FLUX = {
    "_class_name": "FluxTransformer2DModel",
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 24,
    "in_channels": 16,
    "axes_dims_rope": [4, 6, 6],
    "guidance_embeds": True,
}
STEPS = Workload("steps", side=128, prompt_tokens=7, decode_steps=3, batch=2)


def written(tmp_path, given):
    (tmp_path / "config.json").write_text(json.dumps(given), "utf-8")
    return load(tmp_path, "float32")


def counted(model, **inputs):
    import diffusers

    with torch.device("meta"):  # where attention is the products that the counter knows
        module = getattr(diffusers, model.kind.__name__)(**model.config).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(**{name: given.to("meta") for name, given in inputs.items()})
    return counter.get_total_flops(), sum(p.nbytes for p in module.parameters())


CASES = {
    "unet": (
        UNET,
        lambda: {
            "sample": torch.randn(2, 4, 16, 16),
            "timestep": torch.ones(2),
            "encoder_hidden_states": torch.randn(2, 7, 48),
        },
    ),
    "dit": (
        DIT,
        lambda: {
            "hidden_states": torch.randn(2, 4, 16, 16),
            "timestep": torch.ones(2),
            "class_labels": torch.zeros(2, dtype=torch.long),
        },
    ),
    "flux": (
        FLUX,
        lambda: {
            "hidden_states": torch.randn(2, 64, 16),
            "encoder_hidden_states": torch.randn(2, 7, 32),
            "pooled_projections": torch.randn(2, 24),
            "timestep": torch.ones(2),
            "guidance": torch.ones(2),
            "img_ids": torch.zeros(64, 3),
            "txt_ids": torch.zeros(7, 3),
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_has_torch_s_flops_and_all_weights(tmp_path, case):
    given, inputs = CASES[case]
    model = written(tmp_path, given)
    flops, weights = counted(model, **inputs())
    step = model.phases(STEPS)["denoise"]
    assert step.repeat == 3
    assert step.layer.forward_tensor_core_flops() == flops
    assert model.weight_bytes(STEPS) == weights
    assert any("3 steps of denoising" in note for note in model.notes)


def test_without_a_side_the_latent_is_the_model_s_own(tmp_path):
    own = written(tmp_path, UNET).phases(Workload("own", prompt_tokens=7))["denoise"]
    asked = written(tmp_path, UNET).phases(Workload("asked", side=128, prompt_tokens=7))["denoise"]
    assert [c.op for c in own.layer.calls()] == [c.op for c in asked.layer.calls()]


@pytest.mark.parametrize(
    "name", ["AutoModel", "DiffusionPipeline", "os.system", 5, "DDIMScheduler"]
)
def test_what_is_no_model_of_the_library_is_one_line(tmp_path, name):
    with pytest.raises(CalibError, match=r"_class_name = .*expected a model of diffusers"):
        written(tmp_path, {"_class_name": name})


def test_a_task_of_text_is_refused(tmp_path):
    with pytest.raises(CalibError, match=r"workload\.task = decode"):
        written(tmp_path, DIT).phases(Workload("x", side=128, task="decode"))
