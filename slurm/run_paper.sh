#!/usr/bin/env bash
#
# Queues the paper's experiment at one size, or the study of rivals, as Slurm jobs: tokenizer, preprocessing, pretraining from
# several seeds, exports, finetunings, evaluations and the report. Run it on the submit host, not by sbatch. It passes the
# settings of slurm/env.sh to "pause-megatron grid --grid STUDY --executor slurm", which makes the jobs (docs/experiments.md).
#
#   slurm/run_paper.sh --dry-run [SIZE]                  check and print every command, its state and the cost
#   slurm/run_paper.sh [SIZE] [-- KEY=VALUE...]          queue the missing jobs; SIZE: 130m (the default), 1b or rivals
#
# KEY=VALUE replaces a value of the study, for example:
#   slurm/run_paper.sh 130m -- pretrain.preprocess.seed=7 pretrain.train.micro_batch_size=8 'pretrain.seeds=[0]'
# You must give the same values when you run it again.
#
# Needs: slurm/env.sh edited, C4 and the tasks' data. Cost: docs/cluster.md. Output: WORK/paper-SIZE/report/report.html;
# tokenizer and data, which all studies share, in WORK/study-data.
set -euo pipefail
script=$(readlink -f "${BASH_SOURCE[0]}")
# shellcheck source=slurm/lib.sh
. "${script%/*}/lib.sh"
read_arguments "$@"
size=${words[0]:-130m}
case $size in
    130m | rivals) gpus=$PRETRAIN_130M_GPUS ;;
    1b) gpus=$PRETRAIN_1B_GPUS ;;
    *) die "SIZE $size: give 130m, 1b or rivals" ;;
esac
study=paper-$size
if [[ $size == rivals ]]; then study=rivals; fi
if [[ ${#sbatch_options[@]} -ne 0 ]]; then die "${sbatch_options[0]}: set options of sbatch in slurm/env.sh"; fi
if ((gpus % GPUS_PER_NODE)); then die "$gpus GPUs: not a multiple of GPUS_PER_NODE=$GPUS_PER_NODE; correct slurm/env.sh"; fi

# Print options of sbatch, each written as --option=value or --option, as a mapping in YAML: as_yaml OPTIONS...
as_yaml() {
    local option name pairs=()
    for option in "$@"; do
        name=${option%%=*}
        if [[ $option == *=* ]]; then pairs+=("'${name#--}': '${option#*=}'"); else pairs+=("'${name#--}': true"); fi
    done
    local IFS=,
    echo "{${pairs[*]}}"
}

# Add options of submitit for one stage: options_of STAGE KIND (cpu or gpu) CPUS OPTIONS...
options_of() {
    local stage=$1 kind=$2 cpus=$3
    shift 3
    if [[ $kind == gpu ]]; then
        slurm+=("$stage.slurm_time=$GPU_TIME" "$stage.slurm_additional_parameters=$(as_yaml "${GPU_OPTIONS[@]}")")
        if [[ -n $GPU_PARTITION ]]; then slurm+=("$stage.slurm_partition=$GPU_PARTITION"); fi
    else
        slurm+=("$stage.slurm_time=$CPU_TIME" "$stage.slurm_additional_parameters=$(as_yaml "${CPU_OPTIONS[@]}")")
        if [[ -n $CPU_PARTITION ]]; then slurm+=("$stage.slurm_partition=$CPU_PARTITION"); fi
    fi
    slurm+=("$stage.cpus_per_task=$cpus" "${@/#/$stage.}")
}

slurm=("slurm_python=${PY[*]}")
if [[ -n $ACCOUNT ]]; then slurm+=("slurm_account=$ACCOUNT"); fi
few=$((PREPROCESS_CPUS < 8 ? PREPROCESS_CPUS : 8))
for stage in tokenizer preprocess; do options_of $stage cpu "$PREPROCESS_CPUS"; done
for stage in merge verify export report; do options_of $stage cpu "$few"; done
for stage in finetune evaluate; do options_of $stage gpu "$CPUS_PER_GPU" gpus_per_node=1 slurm_max_num_timeout=20; done
options_of pretrain gpu "$CPUS_PER_GPU" "nodes=$((gpus / GPUS_PER_NODE))" "tasks_per_node=$GPUS_PER_NODE" \
    "gpus_per_node=$GPUS_PER_NODE" slurm_max_num_timeout=200 slurm_signal_delay_s=300 \
    "slurm_srun_args=['--kill-on-bad-exit=1','--cpus-per-task=$CPUS_PER_GPU']"

values=("pretrain.text=['$C4']" "pretrain.folder=$WORK/study-data")
values+=("pretrain.parts=$PREPROCESS_TASKS" "pretrain.processes=$gpus")
if [[ -e $WORK/tokenizer ]]; then values+=("pretrain.tokenizer=$WORK/tokenizer"); fi # made from another one
if [[ -n $C4_VALIDATION ]]; then values+=("pretrain.validation_text=['$C4_VALIDATION']"); fi
flags=(--grid "$study" --data "$TASKS" --output "$WORK/paper-$size" --set "${values[@]}" "${overrides[@]}")
if [[ -n $dry_run ]]; then
    "${PAUSE_MEGATRON[@]}" grid "${flags[@]}" --list --dry-run
else
    mkdir -p "$WORK"
    "${PAUSE_MEGATRON[@]}" grid "${flags[@]}" --executor slurm --slurm "${slurm[@]}"
fi
