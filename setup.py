"""Lists the packages; everything else is in setup.cfg.

The recipes and tools ship with the package: gin/ and tools/ are installed below cvrl_tf/shipped. In
the repository gin/ stands at the top, where it must not be a package: it would hide the package
`gin`.
"""

from setuptools import find_packages, setup

shipped = {f"cvrl_tf.shipped.{name}": name for name in ("gin", "tools")}
setup(packages=[*find_packages(include=["cvrl_tf*"]), *shipped], package_dir=shipped)
