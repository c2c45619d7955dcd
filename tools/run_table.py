"""Makes tables of the paper: the same command as `python -m cvrl_tf.tables`."""

from absl import flags

from cvrl_tf import commands, tables

__doc__ = tables.__doc__  # for --help
flags.adopt_module_key_flags(tables)

if __name__ == "__main__":
    commands.run(tables.main)
