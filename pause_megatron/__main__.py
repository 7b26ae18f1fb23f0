"""``python -m pause_megatron`` is the ``pause-megatron`` command; launchers such as ``torchrun -m`` start it this way."""

from pause_megatron.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
