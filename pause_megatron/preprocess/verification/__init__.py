"""``pause-megatron verify-dataset``: checks a dataset against its manifest, settings and text.

``verify_dataset`` plans and runs the checks. ``index_checks`` checks every pair of files, ``manifest_checks`` the entry
of every shard, and ``replay`` the tokens, which are read once: it inserts the pauses again and compares.
"""
