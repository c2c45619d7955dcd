"""Writes shards with Apache Beam: on Dataflow, Flink, Spark, or with Beam's own DirectRunner.

All machines must reach the videos and the folder of the records under the same names: in a bucket
(gs://), or on a file system they share.
"""

import functools
import json
import os
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from etils import epath

from cvrl_tf import files
from cvrl_tf.preparation.annotations import Video
from cvrl_tf.preparation.shards import Job
from cvrl_tf.preparation.shards import write_shards as write_shards_here


def write_shards(
    shards: dict[str, list[Video]],
    job: Job,
    runner: str,
    options: Sequence[str] = (),
    timeout: float = 600.0,
) -> None:
    """Writes shards as a Beam pipeline and waits until it ends.

    Args:
      shards: the videos of each, in the order of its records.
      job: what to do with them.
      runner: as "DirectRunner" or "DataflowRunner".
      options: of the runner and the pipeline, as Beam's command line has them.
      timeout: seconds for one video, after which its decoder is taken to hang.

    Raises:
      RuntimeError: the pipeline failed.
    """
    # In a file: a pipeline that holds all names of a large data set is too large to submit.
    first = next(iter(shards))
    worklist = files.aside_of(job.output / first)
    lines = [json.dumps([name, [_to_json(v) for v in videos]]) for name, videos in shards.items()]
    worklist.write_text("\n".join(lines) + "\n")
    try:
        with beam.Pipeline(runner, PipelineOptions(list(options))) as pipeline:
            _ = (
                pipeline
                | "read the work list" >> beam.io.ReadFromText(os.fspath(worklist))
                | "share it out" >> beam.Reshuffle()
                | "write shards" >> beam.Map(functools.partial(_write, job=job, timeout=timeout))
            )
    finally:
        worklist.unlink()


def _to_json(video: Video) -> dict[str, str | float | None]:
    return {**vars(video), "path": os.fspath(video.path)}


def _write(line: str, job: Job, timeout: float) -> None:
    """Writes one shard in a process of its own, because a video may kill or hang it."""
    name, videos = json.loads(line)
    shard = [Video(**{**fields, "path": epath.Path(fields["path"])}) for fields in videos]
    write_shards_here({name: shard}, job, workers=1, timeout=timeout)
