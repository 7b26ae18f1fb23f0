"""Only ``pause_megatron.engine`` imports DeepSpeed and uses the private parts of its engine and optimizers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pause_megatron

PACKAGE = Path(pause_megatron.__file__).parent
ENGINE = sorted((PACKAGE / "engine").glob("*.py"))
OTHERS = [path for path in sorted(PACKAGE.rglob("*.py")) if path not in ENGINE]
PRIVATE = {
    "__compatible_ops__",
    "_get_fp32_opt_state_partition",
    "_get_norm_groups",
    "_get_param_partition_rank",
    "_grad_acc_hooks",
    "_hp_mapping",
    "_link_all_hp_params",
    "_partition_all_parameters",
    "_pending_offload_events",
    "_reassign_or_swap_out_partitioned_parameters",
    "_unflatten_partitioned_parameters",
    "_update_scale",
    "_wait_for_offload_copies",
    "averaged_gradients",
    "bit16_groups",
    "bit16_groups_flat",
    "check_overflow",
    "cpu_offload",
    "cpu_offload_pin_memory",
    "dp_process_group",
    "ds_numel",
    "ds_pipe_replicated",
    "ds_tensor",
    "finalize_gradient_accumulation_boundary",
    "fp16_groups",
    "fp16_partitioned_groups_flat",
    "fp32_partitioned_groups_flat",
    "get_param_id",
    "hp_fragment_address",
    "is_fp16_supported",
    "loss_scaler",
    "lp_fragment_address",
    "model_parallel_rank",
    "mpu",
    "norm_for_param_grads",
    "offload_optimizer_pin_memory",
    "parallel_partitioned_bit16_groups",
    "param_buffer_of_bit16_for_cpu_offload_groups",
    "param_group_index",
    "params_in_partition",
    "partition_gradients",
    "partition_size",
    "real_dp_process_group",
    "reduce_and_partition_stream",
    "scaled_global_norm",
    "single_partition_of_fp32_groups",
    "temp_grad_buffer_for_cpu_offload",
    "temp_grad_buffer_for_gpu_offload",
    "unscale_and_clip_grads",
    "update_lp_params",
    "update_offload_overflow_tracker",
    "use_grad_accum_attribute",
}
"""Attributes of DeepSpeed's objects that its documentation does not promise."""
PUBLIC = {"callable", "evaluating", "updater"}
"""Attributes of the engine that other packages may use."""


def attributes(path: Path) -> Iterator[ast.Attribute]:
    """Every ``owner.name`` in ``path``."""
    yield from (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute))


def is_engine(owner: ast.expr) -> bool:
    """Whether ``owner`` is written ``engine``, ``self.engine`` or ``self._engine``."""
    name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
    return name in ("engine", "_engine")


def imported_packages(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_only_the_engine_package_imports_deepspeed() -> None:
    assert [path for path in OTHERS if "deepspeed" in imported_packages(path)] == []
    assert any("deepspeed" in imported_packages(path) for path in ENGINE)


def test_private_names_of_deepspeed_are_used_only_in_the_engine_package() -> None:
    for path in OTHERS:
        names = {node.attr for node in attributes(path)}
        assert not names & PRIVATE, path


def test_other_packages_use_only_public_attributes_of_the_engine() -> None:
    for path in OTHERS:
        names = {node.attr for node in attributes(path) if is_engine(node.value)}
        assert names <= PUBLIC, path


def test_the_list_of_private_names_is_complete_and_has_no_unused_ones() -> None:
    nodes = [node for path in ENGINE for node in attributes(path)]
    used = {node.attr for node in nodes}
    assert used >= PRIVATE
    owner_is_self = {id(node) for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "self"}
    underscored = {node.attr for node in nodes if node.attr.startswith("_") and id(node) not in owner_is_self}
    underscored -= {"__init__", "_foreach_copy_"}  # the latter is PyTorch's
    assert underscored <= PRIVATE
