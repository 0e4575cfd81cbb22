"""The packages of Debian that the languages need, for make and scripts/system-parts; needs nothing but Python.

    python3 scripts/packages.py --demo     those that `make setup` installs, since the demo needs them
    python3 scripts/packages.py --names    the others, which `make toolchains` installs
    python3 scripts/packages.py            one line for each: name, how to see that it is there, what is lost without it

Fields are separated by tabs.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "src"))

from flextune.languages import LANGUAGES

packages = {package.name: package for language in LANGUAGES.values() for package in language.packages}
for package in packages.values():
    if len(sys.argv) == 1:
        print(package.name, package.check, package.without, sep="\t")
    elif package.on_demand == ("--names" in sys.argv):
        print(package.name)
