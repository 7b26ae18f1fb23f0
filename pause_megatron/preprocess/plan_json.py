"""Plan of a run as JSON, which the first MPI rank sends to all: mpi4py's own messages would be unpickled."""

import json
from pathlib import Path
from typing import Any

import msgspec

from pause_megatron.corpus.blocks import ReadOptions
from pause_megatron.corpus.sources import SOURCE_KINDS
from pause_megatron.preprocess.planning import Plan
from pause_megatron.preprocess.shard import ShardJob, ShardOutput


def plan_to_json(plan: Plan) -> str:
    """Return ``plan`` as JSON; a job refers to its source by its index, and to its outputs by their numbers."""
    jobs = [vars(job) | {"source": None, "outputs": list(map(plan.outputs.index, job.outputs))} for job in plan.jobs]
    sources = [[type(source).__name__, vars(source)] for source in plan.sources]
    values = {"sources": sources, "outputs": plan.outputs, "jobs": jobs}
    return json.dumps(msgspec.to_builtins(values, enc_hook=str))


def plan_from_json(text: str) -> Plan:
    """Return the plan of a text that :func:`plan_to_json` returned."""
    values = json.loads(text)
    sources = tuple(SOURCE_KINDS[kind](**fields) for kind, fields in values["sources"])
    outputs = msgspec.convert(values["outputs"], tuple[ShardOutput, ...], dec_hook=lambda kind, value: kind(value))

    def job_of(fields: dict[str, Any]) -> ShardJob:
        return ShardJob(
            source=sources[fields["index"]],
            index=fields["index"],
            options=ReadOptions(**fields["options"]),
            tokenizer=Path(fields["tokenizer"]),
            outputs=tuple(outputs[number] for number in fields["outputs"]),
            progress=Path(fields["progress"]),
        )

    return Plan(sources=sources, outputs=outputs, jobs=tuple(map(job_of, values["jobs"])))
