"""Put finished weights together as a model folder in float16.

python -m tools.ship --text-tokenizer T.json --s3 S3 --gpt GPT --vits2 VITS2 --output pretrained_models/nano
"""

import argparse
import sys
from pathlib import Path

from modules.config import load_preset
from modules.errors import UserError
from modules.inference.shipping import Trained, ship


def main(argv: list[str] | None = None) -> int:
    """Parse flags and write the folders."""
    parser = argparse.ArgumentParser(prog="python -m tools.ship", description=__doc__.split("\n")[0])
    for name in ("text-tokenizer", "s3", "gpt", "vits2"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--discriminators", type=Path, help="kept with what training needs")
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--output", type=Path, required=True, help="model folder")
    parser.add_argument("--training-output", type=Path, help="folder for what a later training starts from")
    arguments = parser.parse_args(argv)
    trained = Trained(arguments.text_tokenizer, arguments.s3, arguments.gpt, arguments.vits2, arguments.discriminators)
    try:
        size = ship(trained, load_preset(arguments.preset), arguments.output, arguments.training_output)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{arguments.output}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
