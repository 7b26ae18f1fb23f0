#!/usr/bin/env bash
#
# Queues the paper's experiment at one size as a chain of Slurm jobs: tokenizer, preprocessing, both pretrainings, their
# exports, the grids of finetunings and evaluations, and the report. Run it on the submit host, not by sbatch.
#
#   slurm/run_paper.sh --dry-run [SIZE]                    check and print every command and its state
#   slurm/run_paper.sh [SIZE] [-- STAGE FLAGS]...          queue the missing stages; SIZE: 130m (the default) or 1b
#
# Flags for the Python command of a stage (tokenizer, preprocess, merge, pretrain, convert, grid, report) follow its name,
# for example:
#   slurm/run_paper.sh 130m -- preprocess --seed 7 -- pretrain --micro-batch-size 8
# You must give the same flags when you run it again.
#
# Needs: slurm/env.sh edited, C4 and the tasks' data. Cost: docs/cluster.md. Output: WORK/report-SIZE/report.html.
set -euo pipefail
script=$(readlink -f "${BASH_SOURCE[0]}")
# shellcheck source=slurm/lib.sh
. "${script%/*}/lib.sh"
read_arguments "$@"
size=${words[0]:-130m}
if [[ $size != 130m && $size != 1b ]]; then die "SIZE $size: give 130m or 1b"; fi
if [[ ${#sbatch_options[@]} -ne 0 ]]; then die "${sbatch_options[0]}: set options of sbatch in slurm/env.sh"; fi

# Set stage_flags to the flags for a stage: flags_of STAGE
flags_of() {
    local word stage=${overrides[0]:-} at_name=''
    stage_flags=()
    for word in "${overrides[@]:1}"; do
        if [[ -n $at_name ]]; then
            stage=$word at_name=''
        elif [[ $word == -- ]]; then
            at_name=yes
        elif [[ $stage == "$1" ]]; then
            stage_flags+=("$word")
        fi
    done
}

# Queue one stage unless it is done or queued, and record its job id: stage NAME FLAGS_OF PRODUCTS NEEDS SCRIPT [WORDS]
# PRODUCTS: files that exist when the stage is done, separated by colons; NEEDS: stages that must be done before.
declare -A job
jobs=$WORK/paper-$size-jobs
stage() {
    local name=$1 products=$3 needs=$4 command=("$SLURM_SCRIPTS/$5") after='' need
    flags_of "$2"
    shift 5
    if [[ -n $dry_run ]]; then command+=(--dry-run); fi
    for need in $needs; do
        if [[ -n ${job[$need]:-} ]]; then after+=:${job[$need]}; fi
    done
    if [[ -n $after ]]; then command+=("--dependency=afterok$after" --kill-on-invalid-dep=yes); fi
    command+=("$@" -- "${stage_flags[@]}")
    if is_done "$products"; then
        echo "$name: done"
    elif job[$name]=$(queued_before "$name") && [[ -n ${job[$name]} ]]; then
        echo "$name: in the queue as job ${job[$name]}"
    elif [[ -n $dry_run ]]; then
        echo "$name: to do"
        "${command[@]}"
    else
        job[$name]=$("${command[@]}")
        echo "$name ${job[$name]}" >>"$jobs"
        echo "$name: queued as job ${job[$name]}"
    fi
}

# Whether all of PRODUCTS exist.
is_done() {
    local product products=()
    IFS=: read -ra products <<<"$1"
    for product in "${products[@]}"; do
        if [[ ! -e $product ]]; then return 1; fi
    done
}

# Print the job id of a stage if that job is still in the queue.
queued_before() {
    local id='' found=''
    if [[ -f $jobs ]]; then id=$(sed -n "s/^$1 //p" "$jobs" | tail -n 1); fi
    if [[ -n $id ]]; then found=$(squeue --noheader --jobs="$id" 2>/dev/null || true); fi
    if [[ -n $found ]]; then echo "$id"; fi
}

mkdir -p "$WORK"
flags_of pretrain
last=$(printf 'iter_%07d' "$(value_of --train-iters 381470 "${stage_flags[@]}")")
data=$WORK/data
stage tokenizer tokenizer "$WORK/tokenizer/manifest.json" "" tokenizer.sh
datasets=$data/pause/dataset.json:$data/standard/dataset.json
if [[ -n $C4_VALIDATION ]]; then datasets+=:$data/validation-pause/dataset.json:$data/validation-standard/dataset.json; fi
stage preprocess preprocess "$datasets" tokenizer preprocess_c4.sh
merged=$data/pause-merged/dataset.json:$data/standard-merged/dataset.json:$data/logs/verified
stage merge merge "$merged" preprocess merge_c4.sh
for model in stdpt pausept; do
    run=$WORK/runs/$model-$size
    stage "pretrain-$model" pretrain "$run/checkpoints/$last/manifest.json" merge "pretrain_$size.sh" "$model"
    stage "convert-$model" convert "$WORK/hf/$model-$size/config.json" "pretrain-$model" convert_to_hf.sh "$model-$size"
    stage "grid-$model" grid "$WORK/grids/$model-$size/logs/done" "convert-$model" grid.sh "$model-$size"
done
stage report report "$WORK/report-$size/report.html" "grid-stdpt grid-pausept" report.sh "$size"
