"""Checks of training steps: every device, precision, layout and way to save memory gives the losses of one CPU."""

from typing import Any

from pause_megatron.doctor.check import Figures, Place
from pause_megatron.doctor.small_runs import (
    BF16_TOLERANCE,
    FP32_TOLERANCE,
    REFERENCE,
    STEPS,
    compare,
    records,
    run_config,
    train,
    write_dataset,
    write_text_and_tokenizer,
)
from pause_megatron.errors import UserError
from pause_megatron.parallel.launcher import detect_launch

HELD_OUT = "held-out"
LONG = "long"
"""Dataset of the speed measurement."""
LONG_SEQ_LENGTH = 2048
_LARGEST_GRAPHS = 2
_TP = "tensor_model_parallel_size"
_PP = "pipeline_model_parallel_size"
_VP = "virtual_pipeline_model_parallel_size"
_LAYOUTS: dict[int, dict[str, dict[str, Any]]] = {
    2: {
        **{f"DP 2, ZeRO-{stage}": {"zero_stage": stage} for stage in range(4)},
        "TP 2": {_TP: 2},
        "TP 2, sequence-parallel": {_TP: 2, "sequence_parallel": True},
        "PP 2": {_PP: 2},
        "PP 2, interleaved": {_PP: 2, _VP: 2},
    },
    4: {
        "TP 2, PP 2": {_TP: 2, _PP: 2, "sequence_parallel": True},
        "TP 2, DP 2, ZeRO-3": {_TP: 2, "zero_stage": 3},
        "PP 2, DP 2": {_PP: 2},
    },
}
"""Ranks to layouts, as settings of a run."""


def make_data(place: Place) -> Figures:
    """Write a tokenizer and datasets that the other checks train on."""
    write_text_and_tokenizer(place.folder)
    write_dataset(place.folder, "data")
    if place.gpus:
        write_dataset(place.folder, HELD_OUT, split="validation")
        write_dataset(place.folder, LONG, seq_length=LONG_SEQ_LENGTH)
    return {"found": "written"}


def cpu(place: Place) -> Figures:
    """Train the reference."""
    config = run_config(place, REFERENCE)
    train([config])
    losses = [record.last_loss for record in records(config)]
    if not losses[-1] < losses[0]:
        raise UserError(f"training: the loss goes from {losses[0]:.4f} to {losses[-1]:.4f}; report it with doctor.json")
    return {"found": f"loss {losses[0]:.4f} to {losses[-1]:.4f} in {STEPS} steps", "losses": losses}


def fp32(place: Place) -> Figures:
    """Train like the reference on the device of this process."""
    config = run_config(place, "fp32", compile_layers="never")
    train([config])
    return _found(compare(place, config, FP32_TOLERANCE))


def bf16(place: Place) -> Figures:
    """Train in bf16."""
    config = run_config(place, "bf16", precision="bf16", compile_layers="never")
    train([config])
    return _found(compare(place, config, BF16_TOLERANCE))


def compiled(place: Place) -> Figures:
    """Train twelve layers with and without compilation, with validations in between, and count the graphs."""
    from torch._dynamo.utils import counters

    validated: dict[str, Any] = {"validation_data": (str(place.folder / HELD_OUT),), "validation_interval": 2}
    settings: dict[str, Any] = {"num_layers": 12, "validation_sequences": 8, **validated}
    eager = run_config(place, "eager", compile_layers="never", **settings)
    compiled = run_config(place, "compiled", compile_layers="always", **settings)
    train([eager, compiled])
    graphs = counters["stats"]["unique_graphs"]
    if graphs > _LARGEST_GRAPHS:
        raise UserError(
            f"--compile-layers: {graphs} graphs for 12 equal layers, more than {_LARGEST_GRAPHS}; use never, and report"
            " it with doctor.json"
        )
    return _found(compare(place, compiled, FP32_TOLERANCE, reference="eager"), graphs=graphs)


def recomputation(place: Place) -> Figures:
    """Train with recomputed MLPs, and with recomputed layers."""
    runs = [
        run_config(place, f"recompute-{which}", recompute_granularity=which, compile_layers="never")
        for which in ("selective", "full")
    ]
    train(runs)
    return _found(*(compare(place, config, FP32_TOLERANCE) for config in runs))


def layouts(place: Place) -> Figures:
    """Train under every layout of these ranks."""
    launch = detect_launch()
    layouts = _LAYOUTS[launch.world_size]
    runs = [run_config(place, name, compile_layers="never", **settings) for name, settings in layouts.items()]
    train(runs)
    if launch.rank:
        return {}
    found = {config.output.name: compare(place, config, FP32_TOLERANCE) for config in runs}
    return {**_found(*found.values()), "layouts": found}


def _found(*differences: Figures, **more: object) -> Figures:
    loss, norm = (max(item[name] for item in differences) for name in ("loss_difference", "norm_difference"))
    found = f"losses differ by at most {loss:.1e}, gradient norms by {norm:.1e}"
    found += "".join(f", {value} {name}" for name, value in more.items())
    return {"found": found, "loss_difference": loss, "norm_difference": norm, **more}
