"""Run the command: `python -m fashion_lightning`."""

from fashion_lightning.cli.main import main

if __name__ == "__main__":
    main()
