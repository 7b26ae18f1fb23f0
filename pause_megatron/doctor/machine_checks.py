"""Checks of the machine: packages, GPUs, compiler, MPI and Slurm."""

import os
import re
import shutil
import subprocess
from importlib import metadata

from pause_megatron.doctor.check import Figures, Place, Skipped
from pause_megatron.errors import UserError, one_line
from pause_megatron.versions import versions

_NEEDED = ("torch", "megatron-core", "deepspeed", "transformers", "lm_eval", "numpy")


def versions_of_packages(place: Place) -> Figures:
    """Check that every package is installed in a version that ``setup.py`` allows."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    found = versions()
    for line in metadata.requires("pause_megatron") or []:
        required = Requirement(line)
        if required.marker and not required.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(required.name)
        except metadata.PackageNotFoundError:
            raise UserError(f"{required.name}: not installed; run 'pip install {required}'") from None
        if not required.specifier.contains(Version(version), prereleases=True):
            raise UserError(f"{required.name} {version}: not supported; run 'pip install {required}'")
    return {"found": ", ".join(f"{name} {found[name]}" for name in _NEEDED if name in found)}


def gpus(place: Place) -> Figures:
    """Check that CUDA starts on every GPU and that PyTorch has kernels for it, and multiply matrices there."""
    import torch

    from pause_megatron.parallel.visible_gpus import driver_version, oldest_driver, refuse_missing_kernels

    names, driver = [], driver_version()
    for index in range(place.gpus):
        properties = torch.cuda.get_device_properties(index)
        refuse_missing_kernels(properties.name, (properties.major, properties.minor), torch.cuda.get_arch_list())
        names.append(f"{properties.name}, {properties.total_memory / 2**30:.1f} GiB")
        matrix = torch.full((256, 256), 0.5, device=f"cuda:{index}", dtype=torch.bfloat16)
        if float((matrix @ matrix)[0, 0]) != 64:
            raise UserError(
                f"cuda:{index}: 256 x 0.25 is not 64 in bf16; test it with 'dcgmi diag -r 3', or replace it"
            )
    needed = oldest_driver(torch.version.cuda) if torch.version.cuda else None
    if driver and needed and int(driver.partition(".")[0]) < needed:
        raise UserError(f"driver {driver}: too old for CUDA {torch.version.cuda}; update it to {needed} or later")
    found = f"{'; '.join(names)}; driver {driver or 'unknown'}, CUDA {torch.version.cuda}"
    return {"found": found, "driver": driver, "cuda": torch.version.cuda, "gpus": names}


def compiler(place: Place) -> Figures:
    """Compile a trivial function for the GPU."""
    from pause_megatron.model.compilation import compiler_problem

    if problem := compiler_problem(place.device):
        raise UserError(f"--compile-layers: {problem}; layers would not be compiled")
    return {"found": "compiles a function"}


def mpi(place: Place) -> Figures:
    """Report the MPI library that mpi4py finds; it is needed only under mpirun, or for preprocessing with MPI."""
    import mpi4py

    mpi4py.rc.initialize = False
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise Skipped(f"mpi4py finds no MPI library ({one_line(error)}); needed only to launch with MPI") from error
    return {"found": MPI.Get_library_version().strip("\0 \n").splitlines()[0]}


def slurm(place: Place) -> Figures:
    """Check that Slurm's commands answer, and inside a job that the job's GPUs are visible."""
    missing = [program for program in ("sbatch", "srun", "scontrol") if shutil.which(program) is None]
    if missing:
        raise Skipped(f"no {', '.join(missing)} here; needed only by the scripts in slurm/")
    done = subprocess.run(["sinfo", "--version"], capture_output=True, text=True, timeout=30, check=False)
    if done.returncode and "SLURM_JOB_ID" not in os.environ:
        raise Skipped("Slurm is installed here but answers no commands; needed only by the scripts in slurm/")
    if done.returncode:
        raise UserError(f"sinfo: fails ({one_line(RuntimeError(done.stderr))}); ask the site's administrator")
    given = os.environ.get("SLURM_GPUS_ON_NODE")
    if given and re.fullmatch(r"\d+", given) and place.gpus and int(given) < place.gpus:
        raise UserError(f"SLURM_GPUS_ON_NODE {given}: fewer than the {place.gpus} GPUs in use; give --gpus {given}")
    job = f", job {os.environ['SLURM_JOB_ID']} with {given or 'no'} GPUs" if "SLURM_JOB_ID" in os.environ else ""
    return {"found": f"{done.stdout.strip()}{job}"}
