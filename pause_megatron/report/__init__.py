"""The report: what evaluations and pretraining runs have written, as tables, figures and careful words.

``collect`` reads files into ``records``; ``compare`` sorts them into ``cells``, where the statistics stand, those of
``bootstrap`` beside them. From these come tables (``tables``; ``comparisons`` with StdPT_StdFT and with the numbers of
``published``; ``ablations``, ``cost``, ``pretraining``), figures (``figures``, ``sweeps``, ``curves``, drawn by
``drawing``), ``samples``, ``summary``, ``caveats`` and ``provenance``, under the names of ``labels``. ``document`` puts
them together, ``page`` renders them as HTML and Markdown, and ``write`` brings them to disk.
"""
