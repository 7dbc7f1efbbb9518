"""Put finished weights together as a model folder in float16.

    python -m tools.ship --text-tokenizer T.json --s3 S3 --gpt GPT --vits2 VITS2 --output pretrained_models/nano \\
        --training-output pretrained_models/nano-training
    python -m tools.ship --join pretrained_models/nano pretrained_models/nano-training --output logs/start

The second line puts the two folders together again, to go on training from them.
"""

import argparse
import sys
from pathlib import Path

from modules.config import load_preset
from modules.errors import UserError
from modules.inference.shipping import Trained, join_training, ship


def main(argv: list[str] | None = None) -> int:
    """Parse flags and write the folders."""
    parser = argparse.ArgumentParser(prog="python -m tools.ship", description=__doc__.split("\n")[0])
    for name in ("text-tokenizer", "s3", "gpt", "vits2"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--discriminators", type=Path, help="kept with what training needs")
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--output", type=Path, required=True, help="model folder")
    parser.add_argument("--training-output", type=Path, help="folder for what a later training starts from")
    parser.add_argument("--join", type=Path, nargs=2, metavar=("MODEL", "TRAINING"), help="make whole weights again")
    arguments = parser.parse_args(argv)
    needed = (arguments.text_tokenizer, arguments.s3, arguments.gpt, arguments.vits2)
    if not arguments.join and None in needed:
        parser.error("--text-tokenizer, --s3, --gpt and --vits2 are needed, or --join")
    trained = Trained(arguments.text_tokenizer, arguments.s3, arguments.gpt, arguments.vits2, arguments.discriminators)
    try:
        if arguments.join:
            print("\n".join(map(str, join_training(*arguments.join, arguments.output))))
            return 0
        size = ship(trained, load_preset(arguments.preset), arguments.output, arguments.training_output)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{arguments.output}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
