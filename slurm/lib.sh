# shellcheck shell=bash
# Functions shared by the scripts of this folder, which source this file. A script sets 'folder' (its logs go to
# 'folder/logs'), defines 'check' (the checks before a job waits in the queue) and 'work' (the job), and calls 'dispatch cpu'
# or 'dispatch gpu'. Its arguments are [--dry-run] [SBATCH OPTIONS] [WORDS] [-- FLAGS of the Python command].

SLURM_SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPOSITORY=${SLURM_SCRIPTS%/*} # or, with scripts that 'pause-megatron slurm-scripts' wrote, the folder that holds theirs
: "${script:?}" # path of the script that sources this file
# shellcheck source=slurm/env.sh
. "$SLURM_SCRIPTS/env.sh"
if [[ -d $REPOSITORY/pause_megatron ]]; then export PYTHONPATH=$REPOSITORY${PYTHONPATH:+:$PYTHONPATH}; fi

PY=("${CONTAINER[@]}" "$PYTHON")
PAUSE_MEGATRON=("${PY[@]}" -m pause_megatron)
MOST_RETRIES=3   # times a job that loses processes is requeued at the same checkpoint
REQUEUE=85       # exit code of a command that stopped on request and saved
LOST_PROCESS=86  # exit code of a run that lost a process

die() {
    echo "error: $*" >&2
    exit 2
}

# Succeed inside the script's own job, where sbatch runs a copy of it. SLURM_JOB_ID may belong to a surrounding job.
in_own_job() { [[ $(readlink -f "$0") != "$script" ]]; }

# Split a script's arguments into dry_run, sbatch_options, words and overrides.
read_arguments() {
    dry_run='' sbatch_options=() words=() overrides=()
    while [[ $# -gt 0 ]]; do
        case $1 in
            --) shift && overrides=("$@") && return ;;
            --dry-run) dry_run=yes ;;
            --*=*) sbatch_options+=("$1") ;;
            -*) die "$1: unclear; write an option of sbatch as --option=value, and flags of the Python command after --" ;;
            *) words+=("$1") ;;
        esac
        shift
    done
}

# Print the value of the last flag NAME in FLAGS, or DEFAULT: value_of NAME DEFAULT FLAGS...
value_of() {
    local name=$1 value=$2
    shift 2
    while [[ $# -gt 0 ]]; do
        case $1 in
            "$name") value=${2:-} ;;
            "$name"=*) value=${1#*=} ;;
        esac
        shift
    done
    echo "$value"
}

# Print a command as you would type it.
show() {
    printf '%q ' "$@"
    echo
}

# Check the flags of a command without running it: check_flags COMMAND FLAGS...
check_flags() { "${PY[@]}" -m pause_megatron check "$@"; }

# With --dry-run only check; inside the job work; otherwise check and queue the script: dispatch KIND (cpu or gpu).
dispatch() {
    if [[ -n $dry_run ]]; then
        check
    elif in_own_job; then
        log_to "$folder/logs"
        work
    else
        check >&2
        queue "$1"
    fi
}

# Queue the running script with the site's options for KIND; print the job id.
queue() {
    local kind=$1 options=(--output="$folder/logs/%x-%j.log")
    if [[ -n $ACCOUNT ]]; then options+=(--account="$ACCOUNT"); fi
    if [[ $kind == gpu ]]; then
        if [[ -n $GPU_PARTITION ]]; then options+=(--partition="$GPU_PARTITION"); fi
        options+=(--time="$GPU_TIME" "${GPU_OPTIONS[@]}")
    else
        if [[ -n $CPU_PARTITION ]]; then options+=(--partition="$CPU_PARTITION"); fi
        options+=(--time="$CPU_TIME" "${CPU_OPTIONS[@]}")
    fi
    mkdir -p "$folder/logs"
    sbatch --parsable "${options[@]}" "${site_options[@]}" "${sbatch_options[@]}" \
        "$script" "${words[@]}" -- "${overrides[@]}"
}

# Redirect all output to one file in FOLDER, the same file after each requeue: log_to FOLDER
log_to() {
    local log=$1/${SLURM_JOB_NAME:-job}-$SLURM_JOB_ID.log
    mkdir -p "$1"
    if [[ ! /dev/stdout -ef $log ]]; then
        echo "the log is $log"
        exec >>"$log" 2>&1
    fi
    echo "job $SLURM_JOB_ID on ${SLURM_JOB_NODELIST:-$(hostname)}, restart ${SLURM_RESTART_COUNT:-0}, $(date)"
}

# Run COMMAND, and send it SIGNAL when Slurm warns of the time limit (--signal=B:USR1@...). Requeue the job if COMMAND
# stopped on request or lost a process: run_until_done SIGNAL COMMAND...
run_until_done() {
    local signal=$1 warned='' code=0 again=0
    shift
    show "$@"
    trap 'warned=yes; echo "warned by Slurm: sending $signal to the command"; kill -s "$signal" "$child" || true' USR1
    "$@" &
    local child=$!
    wait "$child" || code=$?
    while kill -0 "$child" 2>/dev/null; do # a signal interrupted 'wait', but the command still runs
        code=0
        wait "$child" || code=$?
    done
    wait "$child" || again=$? # the shell keeps the exit code if a signal came at that moment
    if [[ $again -ne 127 ]]; then code=$again; fi
    trap '' USR1
    echo "exit code $code, $(date)"
    if [[ $code -eq $REQUEUE || (-n $warned && $code -gt $REQUEUE) ]]; then
        requeue
    elif [[ $code -eq $LOST_PROCESS || $code -gt 128 ]]; then
        requeue_if_it_progresses
    fi
    return "$code"
}

requeue() {
    echo "requeueing job $SLURM_JOB_ID"
    if scontrol requeue "$SLURM_JOB_ID"; then
        sleep 300 # until Slurm ends this script
    fi
}

# Print the name of the newest checkpoint in 'folder', for example iter_0001000, or none.
newest_checkpoint() {
    local names
    names=$(find "$folder/checkpoints" -maxdepth 1 -regex '.*/iter_[0-9]+' -printf '%f\n' 2>/dev/null | sort --version-sort) || true
    [[ -n $names ]] && tail -n 1 <<<"$names" || echo none
}

# A requeued job gets other nodes after a hardware failure, but too little memory is too little again: stop at some point.
requeue_if_it_progresses() {
    local newest losses=$folder/logs/lost-$SLURM_JOB_ID
    newest=$(newest_checkpoint)
    echo "$newest" >>"$losses"
    if [[ $(grep --count --fixed-strings --line-regexp "$newest" "$losses") -gt $MOST_RETRIES ]]; then
        echo "requeued $MOST_RETRIES times, still at checkpoint $newest: giving up"
    else
        requeue
    fi
}

# --- pretraining --------------------------------------------------------------------------------------------------------

# Set flags and options for the model of the first word (default: pausept): set_up_pretraining SIZE GPUS FLAGS...
set_up_pretraining() {
    local size=$1 gpus=$2 model=${words[0]:-pausept} data held_out=()
    shift 2
    case $model in
        pausept) data=pause ;;
        stdpt) data=standard ;;
        *) die "MODEL $model: give pausept or stdpt" ;;
    esac
    if [[ -n $C4_VALIDATION ]]; then
        held_out=(--validation-data "$WORK/data/validation-standard" "$WORK/data/validation-pause")
    fi
    flags=(--preset "$size" --data "$WORK/data/$data-merged" "${held_out[@]}" --tokenizer "$WORK/tokenizer")
    flags+=(--output "$WORK/runs/$model-$size" "$@" "${overrides[@]}")
    folder=$(value_of --output "" "${flags[@]}")
    if ((gpus % GPUS_PER_NODE)); then die "$gpus GPUs: not a multiple of GPUS_PER_NODE=$GPUS_PER_NODE; correct slurm/env.sh"; fi
    nodes=$(value_of --nodes $((gpus / GPUS_PER_NODE)) "${sbatch_options[@]}")
    tasks=$(value_of --ntasks-per-node "$GPUS_PER_NODE" "${sbatch_options[@]}")
    site_options=(--job-name="$model-$size" --nodes="$nodes" --ntasks-per-node="$tasks")
    site_options+=(--gpus-per-node="$GPUS_PER_NODE" --cpus-per-task="$CPUS_PER_GPU")
}

# Print the command, layout, memory and time of a pretraining.
check_pretraining() {
    echo "$nodes nodes with $tasks tasks each, $(value_of --time "$GPU_TIME" "${sbatch_options[@]}") at a time"
    show srun "${PAUSE_MEGATRON[@]}" pretrain "${flags[@]}"
    "${PAUSE_MEGATRON[@]}" pretrain "${flags[@]}" --dry-run --num-gpus $((nodes * tasks))
}

# Pretrain with one task for each GPU. srun does not inherit --cpus-per-task from its job.
work_pretraining() {
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
    run_until_done USR1 srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
        "${PAUSE_MEGATRON[@]}" pretrain "${flags[@]}"
}

# Print the folder of an exported model: in WORK/hf, or of run_paper.sh, where it may still be missing: exported MODEL
exported() {
    local folder=$WORK/hf/$1 study=$WORK/paper-${1##*-}
    if [[ ! -d $folder && -d $study ]]; then folder=$study/hf/$1; fi
    echo "$folder"
}

# --- one GPU ------------------------------------------------------------------------------------------------------------

# Set the options of a job on one GPU.
one_gpu() { site_options=(--gpus-per-node=1 --cpus-per-task="$CPUS_PER_GPU" "$@"); }

# Print the data folder of a task, which may have the name of its data set, as in "pause-megatron grid": task_folder TASK
task_folder() {
    local folder=$TASKS/$1 other=''
    case $1 in
        lambada) other=lambada_openai ;;
        web_questions) other=webqs ;;
        natural_questions) other=nq_open ;;
    esac
    if [[ -n $other && ! -d $folder && -d $TASKS/$other ]]; then folder=$TASKS/$other; fi
    echo "$folder"
}
