"""Diagnostics: what models do at their pauses, by attention, logit lens, answers and embedding."""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from pause_megatron.records.diagnosis import AttentionRecord, DiagnosisRecord, EmbeddingRecord
from pause_megatron.report import elements
from pause_megatron.report.drawing import Line, Tile, draw_heat_map
from pause_megatron.report.elements import Figure, Section, Table
from pause_megatron.report.labels import NOTHING, counted

_MOST_TILES = 12
"""Most rows or columns of a heat map; beyond, evenly spaced ones are drawn. The CSV file has all."""
_MAPS = (("answer", "pauses"), ("pauses", "prompt"), ("prompt", "pauses"))
_WORDS = {"answer": "the positions that predict the answer", "pauses": "the pauses", "prompt": "the prompt"}


def diagnosis_section(diagnoses: Sequence[DiagnosisRecord]) -> Section:
    """Build the section on diagnoses; it is empty without any."""
    figures = chain.from_iterable(map(_figures, diagnoses))
    return Section(
        anchor="diagnostics",
        heading="Diagnostics",
        tables=(_attention_table(diagnoses), _embedding_table(diagnoses)),
        figures=tuple(figures),
    )


def _figures(one: DiagnosisRecord) -> Iterator[Figure]:
    for record in one.attention:
        if (record.queries, record.keys) in _MAPS and record.uniform > 0:
            yield _attention_map(one, record)
    yield _lens_map(one)
    yield _constancy_map(one)
    if len(one.answers) > 1:
        yield _answers_figure(one)
    if len(one.embedding) > 2:
        yield _movement_figure(one)


def _name(one: DiagnosisRecord) -> str:
    """Return what a reader calls the model: the last two parts of its folder, on the task."""
    return f"{'/'.join(Path(one.model).parts[-2:])} on {one.task}"


def _attention_map(one: DiagnosisRecord, record: AttentionRecord) -> Figure:
    """Draw the share of attention by layer and head."""
    rows = [f"{layer}" for layer in range(1, len(record.heads) + 1)]
    columns = [f"{head}" for head in range(1, len(record.heads[0]) + 1)]
    title = f"Attention from {record.queries} to {record.keys}: {_name(one)}"
    return _percent_map(
        one,
        kind=f"attention-{record.queries}-{record.keys}",
        title=title,
        caption=f"Share of their attention that {_WORDS[record.queries]} give to {_WORDS[record.keys]}, in %. Uniform"
        f" attention would give {record.uniform:.0%}. {_prompts(one)}",
        values=record.heads,
        rows=rows,
        columns=columns,
        axes=("head", "layer"),
    )


def _lens_map(one: DiagnosisRecord) -> Figure:
    """Draw how often the answer is the likeliest token, by layer and pause."""
    return _percent_map(
        one,
        kind="lens",
        title=f"Logit lens at the pauses: {_name(one)}",
        caption="Share of prompts, in %, for which the final norm and the output layer, applied after a layer, give the"
        f" first token of the answer. Layer 0 is the embeddings. {_constant(one)}{_prompts(one)}",
        values=[record.answer_share for record in one.lens],
        rows=[f"{record.layer}" for record in one.lens],
        columns=[f"{pause}" for pause in range(1, one.num_pauses + 1)],
        axes=("pause", "layers passed"),
    )


def _constancy_map(one: DiagnosisRecord) -> Figure:
    """Draw for how many prompts the likeliest token is the same, by layer and pause."""
    return _percent_map(
        one,
        kind="lens-constancy",
        title=f"Do the pauses tell prompts apart? {_name(one)}",
        caption="Share of prompts, in %, that share the most frequent of the tokens that the logit lens gives. 100: it"
        f" gives the same token for all prompts, and reads nothing of them. {_prompts(one)}",
        values=[record.top_share for record in one.lens],
        rows=[f"{record.layer}" for record in one.lens],
        columns=[f"{pause}" for pause in range(1, one.num_pauses + 1)],
        axes=("pause", "layers passed"),
    )


def _percent_map(
    one: DiagnosisRecord,
    *,
    kind: str,
    title: str,
    caption: str,
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    axes: tuple[str, str],
) -> Figure:
    """Draw shares, ``values[row][column]``, as a heat map; ``axes`` are the labels of x and y."""
    shown_rows, shown_columns = _evenly(len(rows)), _evenly(len(columns))
    tiles = [
        Tile(row=y, column=x, value=values[row][column], text=f"{100 * values[row][column]:.0f}", framed=False)
        for y, row in enumerate(shown_rows)
        for x, column in enumerate(shown_columns)
    ]
    flat = list(chain.from_iterable(values))
    name = f"{kind}-{elements.slug(_name(one))}"
    alt = f"Heat map by {axes[1]} and {axes[0]}: from {min(flat):.0%} to {max(flat):.0%}"
    picture = draw_heat_map(
        name,
        alt,
        tiles,
        [rows[row] for row in shown_rows],
        [columns[column] for column in shown_columns],
        *axes,
        value_range=(0.0, 1.0),
    )
    data = [[rows[y], columns[x], value] for y, row in enumerate(values) for x, value in enumerate(row)]
    return Figure(
        name=name,
        title=title,
        caption=caption,
        alt=alt,
        picture=picture,
        data=elements.csv_text([axes[1], axes[0], "share"], data),
    )


def _evenly(count: int) -> list[int]:
    """Return at most ``_MOST_TILES`` of the indices below ``count``, evenly spaced, the first and the last included."""
    shown = min(count, _MOST_TILES)
    return sorted({round(index * (count - 1) / max(shown - 1, 1)) for index in range(shown)})


def _answers_figure(one: DiagnosisRecord) -> Figure:
    """Draw answers against the number of pauses."""
    numbers = tuple(float(answers.num_pauses) for answers in one.answers)
    correct = tuple(100 * answers.correct for answers in one.answers)
    same = tuple(100 * answers.same_first_token for answers in one.answers)
    own, other, third = elements.OTHER_COLORS
    shares = [answers.top_share for answers in one.answers]
    known = [100 * share for share in shares if share is not None]
    lines = [
        Line(label="correct answer", color=own, x=numbers, y=correct),
        Line(label="same first token", color=other, x=numbers, y=same, is_dashed=True),
    ]
    explained = ""
    if len(known) == len(numbers):
        lines.append(Line(label="most frequent first token", color=third, x=numbers, y=tuple(known)))
        explained = " Most frequent first token: at 100 % the model answers all prompts alike."
    return elements.line_figure(
        name=f"answers-{elements.slug(_name(one))}",
        title=f"Answers with fewer and more pauses: {_name(one)}",
        caption="Each token of the answer is predicted after the correct tokens before it. Same first token: as with"
        f" {counted(one.num_pauses, 'pause')}.{explained} {_constant(one)}{_prompts(one)}",
        lines=lines,
        levels={} if one.best_constant is None else {"best constant answer": 100 * one.best_constant},
        x_label="M_inf, pauses at inference",
        y_label="prompts (%)",
        y_range=(0, 100),
    )


def _constant(one: DiagnosisRecord) -> str:
    """Return a sentence on the score of the best constant answer; nothing for a file of an older version."""
    if one.best_constant is None:
        return ""
    return f"The best constant answer would be correct for {one.best_constant:.0%} of the prompts. "


def _movement_figure(one: DiagnosisRecord) -> Figure:
    """Draw norm and movement of the pause embedding against the iteration of the checkpoint."""
    stored = [record for record in one.embedding if record.iteration is not None]
    iterations = tuple(float(record.iteration or 0) for record in stored)
    own, other, third = elements.OTHER_COLORS
    return elements.line_figure(
        name=f"pause-embedding-{elements.slug(_name(one))}",
        title=f"Embedding of <pause> in pretraining: {_name(one)}",
        caption="Movement is the distance to the first checkpoint.",
        lines=[
            Line(label="norm", color=own, x=iterations, y=tuple(record.norm for record in stored)),
            Line(label="movement", color=other, x=iterations, y=tuple(record.movement for record in stored)),
            Line(label="mean norm of text", color=third, x=iterations, y=tuple(one.norm_of_text for one in stored)),
        ],
        x_label="iterations",
        y_label="length of the vector",
    )


def _attention_table(diagnoses: Sequence[DiagnosisRecord]) -> Table:
    """Tabulate the attention, averaged over layers and heads, and the head with the largest share."""
    rows = []
    for one in diagnoses:
        for record in one.attention:
            by_head = {(layer, head): share for layer, heads in enumerate(record.heads, 1)
                       for head, share in enumerate(heads, 1)}  # fmt: skip
            layer, head = max(by_head, key=lambda place: by_head[place])
            mean = sum(by_head.values()) / len(by_head)
            rows.append(
                elements.text_cells(
                    _name(one),
                    f"{record.queries} → {record.keys}",
                    f"{100 * mean:.1f}",
                    f"{100 * record.uniform:.1f}",
                    f"{100 * by_head[layer, head]:.1f}",
                    f"layer {layer}, head {head}",
                )
            )
    return Table(
        name="attention",
        caption="Share of attention in %, averaged over layers and heads. Answer → pauses: the positions that predict"
        " the answer attend to the pauses. Uniform: the share if each position attended equally to all that it sees.",
        columns=("Model", "From → to", "Mean", "Uniform", "Largest", "Where"),
        words=("From → to", "Where"),
        rows=tuple(rows),
    )


def _embedding_table(diagnoses: Sequence[DiagnosisRecord]) -> Table:
    """Tabulate the embedding of <pause> in the diagnosed models, and its nearest tokens."""
    rows = [
        elements.text_cells(
            _name(one),
            f"{record.norm:.2f}",
            f"{record.norm_of_text:.2f}",
            f"{record.movement:.2f}" if len(one.embedding) > 1 else NOTHING,
            f"{record.cosine_with_mean:.2f}",
            _neighbours(record),
        )
        for one in diagnoses
        for record in one.embedding[-1:]
    ]
    return Table(
        name="pause-embedding",
        caption="Input embedding of <pause>. Movement: distance to the oldest checkpoint that was kept.",
        columns=("Model", "Norm", "Mean norm of text", "Movement", "Cosine with the mean", "Nearest tokens (cosine)"),
        words=("Nearest tokens (cosine)",),
        rows=tuple(rows),
    )


def _neighbours(record: EmbeddingRecord) -> str:
    pairs = list(zip(record.nearest, record.nearest_cosine, strict=True))[:3]
    return ", ".join(f"{token} ({cosine:.2f})" for token, cosine in pairs)


def _prompts(one: DiagnosisRecord) -> str:
    return f"{counted(one.num_prompts, 'prompt')} with {counted(one.num_pauses, 'pause')}."
