"""The report: evaluation results and pretraining runs as tables, figures and sentences on one page.

The pipeline is ``collect`` (read the files), ``measurements`` (group results and compare them, with the statistics of
``uncertainty``), ``document`` (build all ``sections`` and the ``caveats``), ``write`` (render and write the files).
Sections share ``elements`` (tables and figures), ``labels`` (names and numbers) and ``drawing`` (charts).
"""
