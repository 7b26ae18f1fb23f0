#!/usr/bin/env bash
#SBATCH --job-name=preprocess
#SBATCH --array=0-15
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#
# Preprocesses C4 to datasets with and without pauses in one pass, as an array job: each task takes a range of the shards.
# The first task also preprocesses the held-out text.
#
#   slurm/preprocess_c4.sh [--dry-run] [-- FLAGS]       flags of 'pause-megatron preprocess'
#   sbatch [OPTIONS] slurm/preprocess_c4.sh [-- FLAGS]
#   sbatch --dependency=afterok:JOB slurm/merge_c4.sh   next, to merge the shards
#
# Needs: C4, and the tokenizer in WORK/tokenizer (tokenizer.sh).
# Cost: about 6 hours of one core for all of C4 with SentencePiece, so minutes of 16 x 32 cores; 312 GB for each dataset.
# Output: WORK/data/pause and standard. An interrupted job resumes.
set -euo pipefail
script=$(readlink -f "${BASH_SOURCE[0]}")
if [[ ! -f ${script%/*}/lib.sh ]]; then # sbatch runs a copy of the script in another folder
    script=$(scontrol show job "$SLURM_JOB_ID" | sed -n "/^ *Command=/{s///;s/ .*//;p;q}")
fi
# shellcheck source=slurm/lib.sh
. "${script%/*}/lib.sh"
read_arguments "$@"

folder=$WORK/data
site_options=(--array="0-$((PREPROCESS_TASKS - 1))" --cpus-per-task="$PREPROCESS_CPUS")
flags=(--tokenizer "$WORK/tokenizer" --pauses sequence --pause-rate 0.1 --seq-length 2048)
train=(--input "$C4" --output "$WORK/data/pause" --also "none:$WORK/data/standard")
held_out=(--input "$C4_VALIDATION" --output "$WORK/data/validation-pause" --also "none:$WORK/data/validation-standard")
pattern=$(value_of --input "$C4" "${overrides[@]}")
shards=$(compgen -G "$pattern" | wc -l)
check() {
    if [[ $shards -eq 0 ]]; then die "$pattern: no such file; correct C4 in slurm/env.sh"; fi
    if [[ -n $C4_VALIDATION ]]; then
        compgen -G "$C4_VALIDATION" >/dev/null || die "$C4_VALIDATION: no such file; correct C4_VALIDATION in slurm/env.sh"
    fi
    echo "$shards shards in $PREPROCESS_TASKS tasks"
    show "${PAUSE_MEGATRON[@]}" preprocess "${train[@]}" "${flags[@]}" "${overrides[@]}" --shard-range START:END
    check_flags preprocess "${train[@]}" "${flags[@]}" "${overrides[@]}"
}
work() {
    local count=${SLURM_ARRAY_TASK_COUNT:-1} task=0 workers=(--workers "${SLURM_CPUS_PER_TASK:-1}")
    if [[ $count -gt 1 ]]; then task=$(((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN) / SLURM_ARRAY_TASK_STEP)); fi
    local start=$((shards * task / count)) end=$((shards * (task + 1) / count))
    if [[ $start -lt $end ]]; then
        run_until_done TERM "${PAUSE_MEGATRON[@]}" preprocess "${train[@]}" "${flags[@]}" "${overrides[@]}" "${workers[@]}" \
            --shard-range "$start:$end"
    fi
    if [[ $task -eq 0 && -n $C4_VALIDATION ]]; then
        run_until_done TERM "${PAUSE_MEGATRON[@]}" preprocess "${flags[@]}" "${overrides[@]}" "${workers[@]}" "${held_out[@]}"
    fi
}
dispatch cpu
