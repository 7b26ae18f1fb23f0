# shellcheck shell=bash disable=SC2034  # the scripts that source this file use these variables
# Settings of your site, the only file you must edit. All scripts of this folder source it, on the submit host and in their
# jobs. Run 'source slurm/env.sh' before a plain 'sbatch slurm/SCRIPT.sh': its last lines set variables that sbatch reads.

# --- Slurm ------------------------------------------------------------------------------------------------------------
ACCOUNT=                        # account to charge (sbatch --account); empty: your default account
GPU_PARTITION=                  # partition of the GPU nodes (sinfo shows them); empty: the site's default
CPU_PARTITION=                  # partition for preprocessing, conversion of small models and reports; empty: the default
GPUS_PER_NODE=8                 # GPUs of a node; each gets one task
CPUS_PER_GPU=8                  # processors for each GPU's task; at most a node's processors divided by its GPUs
GPU_TIME=24:00:00               # longest time limit of the GPU partition; jobs requeue themselves until they are done
CPU_TIME=12:00:00               # the same for the CPU partition
GPU_OPTIONS=()                  # more options of sbatch for GPU jobs, such as (--qos=long --constraint=h100 --exclusive)
CPU_OPTIONS=()                  # the same for CPU jobs

# --- job sizes --------------------------------------------------------------------------------------------------------
PRETRAIN_130M_GPUS=8            # GPUs to pretrain the 130M model: a multiple of GPUS_PER_NODE that divides the batch
PRETRAIN_1B_GPUS=64             # the same for the 1B model
PREPROCESS_TASKS=16             # tasks of the preprocessing job
PREPROCESS_CPUS=32              # processors of each task; each processes its own shard

# --- paths ------------------------------------------------------------------------------------------------------------
WORK=$REPOSITORY/work           # output: data, runs, models, results, logs; on a disk that all nodes share
C4='c4/en/c4-train.*.json.gz'   # training text: an absolute path with a glob, in quotes
C4_VALIDATION='c4/en/c4-validation.*.json.gz'  # held-out text, also a glob; empty: none
TASKS=tasks                     # absolute path of the tasks' data, with one folder for each task (docs/tasks.md)

# --- software ---------------------------------------------------------------------------------------------------------
# module purge                           # PyTorch brings CUDA and NCCL; those of a module could replace them
PYTHON=$REPOSITORY/.venv/bin/python      # Python with this project's packages ('make install'), on a shared disk
CONTAINER=()                             # command before PYTHON, e.g. (apptainer exec --nv image.sif), with PYTHON inside it

# --- interconnect -----------------------------------------------------------------------------------------------------
# export NCCL_SOCKET_IFNAME=ib0          # network interface for NCCL's setup, if the default is slow
# export GLOO_SOCKET_IFNAME=ib0          # the same for collectives on CPU tensors (default: NCCL's)
# export NCCL_IB_HCA=mlx5                # InfiniBand adapters to use, if some are for storage only
# export NCCL_DEBUG=WARN                 # log level of NCCL; INFO shows the network it chose

# --- from the environment: PAUSE_MEGATRON_WORK=/scratch/me slurm/run_paper.sh 130m replaces WORK for one command -------
for variable in $(compgen -A variable PAUSE_MEGATRON_); do
    name=${variable#PAUSE_MEGATRON_}
    case $(declare -p "$name" 2>/dev/null) in
        'declare -a'*) read -ra "${name?}" <<<"${!variable}" ;; # words, such as PAUSE_MEGATRON_GPU_OPTIONS='--qos=long'
        'declare -'*) printf -v "$name" '%s' "${!variable}" ;;
    esac
done

# --- for a plain sbatch -----------------------------------------------------------------------------------------------
[[ -z $ACCOUNT ]] || export SBATCH_ACCOUNT=$ACCOUNT                # options on the command line override these
[[ -z $GPU_PARTITION ]] || export SBATCH_PARTITION=$GPU_PARTITION  # for CPU jobs give --partition=CPU_PARTITION
