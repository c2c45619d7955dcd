"""Prepares videos as records: the same command as `python -m cvrl_tf.prepare`."""

from absl import flags

from cvrl_tf import commands, prepare

__doc__ = prepare.__doc__  # for --help
flags.adopt_module_key_flags(prepare)

if __name__ == "__main__":
    commands.run(prepare.main)
