#!/usr/bin/env bash
#SBATCH --job-name=grid
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#
# Finetunes and evaluates one exported model on all tasks, with all numbers of pauses and seeds: half of the paper's table.
#
#   slurm/grid.sh [--dry-run] MODEL [-- FLAGS]       flags of "pause-megatron grid"
#   sbatch [OPTIONS] slurm/grid.sh MODEL [-- FLAGS]  MODEL: a folder of WORK/hf, such as pausept-1b
#
# Needs: WORK/hf/MODEL and TASKS. Cost: 135 finetunings and evaluations, one after the other on one GPU. To use many GPUs,
# run "pause-megatron grid --executor slurm" (docs/experiments.md). Output: WORK/grids/MODEL. An interrupted job resumes.
set -euo pipefail
script=$(readlink -f "${BASH_SOURCE[0]}")
if [[ ! -f ${script%/*}/lib.sh ]]; then # sbatch runs a copy of the script in another folder
    script=$(scontrol show job "$SLURM_JOB_ID" | sed -n "/^ *Command=/{s///;s/ .*//;p;q}")
fi
# shellcheck source=slurm/lib.sh
. "${script%/*}/lib.sh"
read_arguments "$@"

if [[ ${#words[@]} -ne 1 ]]; then die "MODEL: give one folder of $WORK/hf, such as pausept-1b"; fi
model=${words[0]}
folder=$WORK/grids/$model
one_gpu --job-name="grid-$model"
flags=(--grid "paper-${model##*-}" --models "${model%-*}=$WORK/hf/$model" --data "$TASKS" --output "$folder" "${overrides[@]}")
check() {
    show "${PAUSE_MEGATRON[@]}" grid "${flags[@]}"
    "${PAUSE_MEGATRON[@]}" grid "${flags[@]}" --list | tail -n 1
}
work() { run_until_done TERM "${PAUSE_MEGATRON[@]}" grid "${flags[@]}"; }
dispatch gpu
