"""Makes tables of the paper: the same command as `python -m cvrl_tf.tables`."""

from absl import app, flags

from cvrl_tf import tables

__doc__ = tables.__doc__  # for --help
flags.adopt_module_key_flags(tables)

if __name__ == "__main__":
    app.run(tables.main)
