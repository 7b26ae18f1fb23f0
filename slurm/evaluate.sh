#!/usr/bin/env bash
#SBATCH --job-name=evaluate
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#
# Evaluates a model that finetune.sh made, with M_INF pauses; by default as many as in finetuning.
#
#   slurm/evaluate.sh [--dry-run] MODEL TASK M_FT [M_INF] [-- FLAGS]       flags of "pause-megatron evaluate"
#   sbatch [OPTIONS] slurm/evaluate.sh MODEL TASK M_FT [M_INF] [-- FLAGS]  such as pausept-1b gsm8k 10
#
# Needs: WORK/finetune/TASK/MODEL-ftM_FT. Cost: minutes to an hour of one GPU. Output: WORK/results/TASK/*.json.
set -euo pipefail
script=$(readlink -f "${BASH_SOURCE[0]}")
if [[ ! -f ${script%/*}/lib.sh ]]; then # sbatch runs a copy of the script in another folder
    script=$(scontrol show job "$SLURM_JOB_ID" | sed -n "/^ *Command=/{s///;s/ .*//;p;q}")
fi
# shellcheck source=slurm/lib.sh
. "${script%/*}/lib.sh"
read_arguments "$@"

if [[ ${#words[@]} -lt 3 || ${#words[@]} -gt 4 ]]; then
    die "arguments: give MODEL TASK M_FT [M_INF], such as pausept-1b gsm8k 10"
fi
model=${words[0]} task=${words[1]} pauses=${words[2]} at_inference=${words[3]:-${words[2]}}
folder=$WORK/results/$task
data=$(task_folder "$task")
one_gpu --job-name="evaluate-$task-$model-ft$pauses"
flags=(--model "$WORK/finetune/$task/$model-ft$pauses" --task "$task" --data "$data")
flags+=(--num-pauses-inf "$at_inference" --output "$folder/$model-ft$pauses-inf$at_inference.json" "${overrides[@]}")
check() {
    show "${PAUSE_MEGATRON[@]}" evaluate "${flags[@]}"
    check_flags evaluate "${flags[@]}"
    if [[ ! -d $data ]]; then die "$data: no such folder; correct TASKS in slurm/env.sh"; fi
}
work() { run_until_done TERM "${PAUSE_MEGATRON[@]}" evaluate "${flags[@]}"; }
dispatch gpu
