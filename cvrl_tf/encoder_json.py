"""What `encoder.json` of a run holds: its encoder, its clips, and other facts of its task."""

from pathlib import Path
from typing import Any

from cvrl_tf import files
from cvrl_tf.data.sampling import Sampling

ENCODER_FILE, ENCODER_VERSION = "encoder.json", 2


def read(path: Path) -> dict[str, Any]:
    """Read the file, in the form of the present version.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is damaged, or of another version and can't be read.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"No {ENCODER_FILE} in {str(path.parent)!r}, which a run writes beside its checkpoints "
            "folder; without it the architecture is unknown."
        )
    content = files.read_json(path)
    try:
        return _present(content, path)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{str(path)!r} is damaged: {type(error).__name__}: {error}. Take that of another run "
            "with the same encoder; docs/formats.md says what stands in it."
        ) from error


def _present(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Bring what `encoder.json` holds into the form of the present version."""
    if missing := {"class_name", "config"} - content["encoder"].keys():
        raise KeyError(*missing)
    version = content.pop("version", 1)
    if version > ENCODER_VERSION:
        raise ValueError(
            f"{str(path)!r} is of version {version}; this cvrl_tf reads up to {ENCODER_VERSION}: "
            "install a newer one."
        )
    if version == ENCODER_VERSION:
        return {**content, "sampling": Sampling.of(content["sampling"])}
    num_frames, size, *_ = content.pop("input_shape")
    names = ("stride", "fps", "short_side", "record_fps")
    if unknown := [name for name in names if name not in content]:
        raise ValueError(
            f"{str(path)!r} is of an earlier version and lacks {', '.join(unknown)}: write them "
            "into it; docs/formats.md says what they are."
        )
    known = {name: content.pop(name) for name in names}
    return {**content, "sampling": Sampling(num_frames=num_frames, size=size, **known)}
