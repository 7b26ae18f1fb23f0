#!/usr/bin/env bash
#SBATCH --job-name=tokenizer
#SBATCH --cpus-per-task=16
#SBATCH --time=4:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#
# Trains the tokenizer on C4. Not needed if you make WORK/tokenizer from an existing tokenizer:
# pause-megatron tokenizer --from-tokenizer spiece.model --output WORK/tokenizer
#
#   slurm/tokenizer.sh [--dry-run] [-- FLAGS]       flags of "pause-megatron tokenizer"
#   sbatch [OPTIONS] slurm/tokenizer.sh [-- FLAGS]
#
# Needs: C4. Cost: minutes of one node. Output: WORK/tokenizer.
set -euo pipefail
script=$(readlink -f "${BASH_SOURCE[0]}")
if [[ ! -f ${script%/*}/lib.sh ]]; then # sbatch runs a copy of the script in another folder
    script=$(scontrol show job "$SLURM_JOB_ID" | sed -n "/^ *Command=/{s///;s/ .*//;p;q}")
fi
# shellcheck source=slurm/lib.sh
. "${script%/*}/lib.sh"
read_arguments "$@"

folder=$WORK/tokenizer-training
site_options=(--cpus-per-task="$PREPROCESS_CPUS")
flags=(--input "$C4" --vocab-size 32256 --output "$WORK/tokenizer" "${overrides[@]}")
check() {
    local pattern
    pattern=$(value_of --input "" "${flags[@]}")
    compgen -G "$pattern" >/dev/null || die "$pattern: no such file; correct C4 in slurm/env.sh"
    show "${PAUSE_MEGATRON[@]}" tokenizer "${flags[@]}"
    check_flags tokenizer "${flags[@]}"
}
work() { run_until_done TERM "${PAUSE_MEGATRON[@]}" tokenizer "${flags[@]}"; }
dispatch cpu
