"""The report: what evaluations and pretraining runs have written, as tables, figures and careful words.

``collect`` reads files into ``records``; ``compare`` sorts them into ``cells``, where the statistics stand. From these
come ``tables``, ``pretraining`` tables, ``figures`` and ``curves`` (drawn by ``drawing``), ``samples``, ``summary``,
``caveats`` and ``provenance``, under the names of ``labels``. ``document`` puts them together, ``page`` renders them as
HTML and Markdown, and ``write`` brings them to disk.
"""
