"""Entry of ``python -m pause_megatron``, the same as ``pause-megatron``; ``torchrun -m pause_megatron`` uses it."""

from pause_megatron.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
