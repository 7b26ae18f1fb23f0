"""The report: evaluation results and pretraining runs as tables, figures and sentences on one page.

The pipeline is ``collect`` (read the files), ``grouping`` (results to ``measurements``, with the statistics of
``uncertainty``), ``verdicts`` (judge all comparisons, with ``guessing``, ``removals`` and ``paired_tests``),
``document`` (build all ``sections`` and the ``caveats``), ``write`` (render and write the files). Sections share
``elements`` (tables and figures), ``labels`` (names and numbers), ``verdict_words`` (sentences about verdicts) and
``drawing`` (charts).
"""
