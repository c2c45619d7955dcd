"""Videos to features: `python -m cvrl_tf.embed --model=EXPORT VIDEOS... --output=features.parquet`.

VIDEOS are files of any codec, and folders of such files. The output has a row a clip: video, start
and end in seconds, feature; and embedding and probability where the model has them. Its clips and
crops are those of evaluation. Interrupted calls resume: rerun the same command.
"""

import sys
from pathlib import Path

from absl import app, flags

from cvrl_tf import commands
from cvrl_tf.inference import feature_file

commands.define_embedder_flags()
_OUTPUT = flags.DEFINE_string("output", None, "A .parquet or .npz file.", required=True)


def main(argv: list[str]) -> None:
    inputs = argv[1:]
    commands.start(argv[:1])
    if not inputs:
        raise app.UsageError("Say which videos: files or folders.")
    output = Path(_OUTPUT.value)
    if output.exists():
        sys.exit(f"{str(output)!r} is there already: delete it, or choose another --output.")
    if output.suffix not in feature_file.FORMATS:
        sys.exit(f"--output={str(output)!r} must end with {' or '.join(feature_file.FORMATS)}.")
    if output.suffix == ".parquet":
        commands.needs("pyarrow", "search")
    # Not needed for --help, and it brings TensorFlow.
    from cvrl_tf.inference.embedder import Embedder
    from cvrl_tf.inference.embedding import embed_videos, listed
    from cvrl_tf.preparation.shards import NotWritten
    from cvrl_tf.preparation.summary import listing

    with commands.explained(), commands.explained(NotWritten):
        videos, ignored = listed(inputs)
        embedder = Embedder(**commands.embedder_arguments())
        skipped = embed_videos(embedder, videos, output, flags.FLAGS.workers, ignored=ignored)
    written = len(videos) - len(skipped)
    print(f"Wrote {embedder.views['num_clips']} clips of each of {written} videos to {output}.")
    if skipped:
        print(*listing("Skipped {} videos", skipped, "the file names them"), sep="\n")
    if ignored:
        print(*listing("Ignored {} files", ignored, "the file names them"), sep="\n")


if __name__ == "__main__":
    commands.run(main)
