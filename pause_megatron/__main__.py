"""``python -m pause_megatron`` is the ``pause-megatron`` command; ``torchrun -m pause_megatron`` starts it this way."""

from pause_megatron.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
