#!/usr/bin/env bash
#SBATCH --job-name=finetune
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#
# Finetunes an exported model on one task with the paper's recipe. For all tasks, numbers of pauses and seeds: grid.sh.
#
#   slurm/finetune.sh [--dry-run] MODEL TASK M_FT [-- FLAGS]       flags of "pause-megatron finetune"
#   sbatch [OPTIONS] slurm/finetune.sh MODEL TASK M_FT [-- FLAGS]  such as pausept-1b gsm8k 10
#
# Needs: WORK/hf/MODEL, or a model of run_paper.sh such as stdpt-pt0-130m, and TASKS/TASK. Cost: hours of one GPU (docs/cluster.md).
# Output: WORK/finetune/TASK/MODEL-ftM_FT. An interrupted job resumes from its last state.
set -euo pipefail
script=$(readlink -f "${BASH_SOURCE[0]}")
if [[ ! -f ${script%/*}/lib.sh ]]; then # sbatch runs a copy of the script in another folder
    script=$(scontrol show job "$SLURM_JOB_ID" | sed -n "/^ *Command=/{s///;s/ .*//;p;q}")
fi
# shellcheck source=slurm/lib.sh
. "${script%/*}/lib.sh"
read_arguments "$@"

if [[ ${#words[@]} -ne 3 ]]; then die "arguments: give MODEL TASK M_FT, such as pausept-1b gsm8k 10"; fi
model=${words[0]} task=${words[1]} pauses=${words[2]}
folder=$WORK/finetune/$task
data=$(task_folder "$task")
one_gpu --job-name="finetune-$task-$model-ft$pauses"
flags=(--model "$(exported "$model")" --task "$task" --data "$data" --num-pauses-ft "$pauses")
flags+=(--preset "$task-${model##*-}" --output "$folder/$model-ft$pauses" "${overrides[@]}")
check() {
    show "${PAUSE_MEGATRON[@]}" finetune "${flags[@]}"
    check_flags finetune "${flags[@]}"
    if [[ ! -d $data ]]; then die "$data: no such folder; correct TASKS in slurm/env.sh"; fi
}
work() { run_until_done TERM "${PAUSE_MEGATRON[@]}" finetune "${flags[@]}"; }
dispatch gpu
