"""``python -m mailsni`` and the ``mailsni`` command."""

from mailsni.cli.main import main

if __name__ == "__main__":
    main()
