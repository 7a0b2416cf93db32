"""Programs that tests start and Python packages do not bring: a Prometheus with promtool, and a browser with its driver.

Where they are missing and this is a Debian machine's root, they are installed with apt-get; elsewhere the sentence says what to install.
"""

import os
import shutil
import subprocess
import sys

PACKAGES = {"prometheus": "prometheus", "promtool": "prometheus", "chromium": "chromium", "chromedriver": "chromium-driver"}


def main() -> int:
    """Install what is missing, or say what to install.

    Returns:
        The exit code: 0 when every program is on the PATH, else 2.
    """
    missing = [program for program in PACKAGES if shutil.which(program) is None]
    if not missing:
        return 0
    packages = sorted({PACKAGES[program] for program in missing})
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sys.stderr.write(
            f"tests need {', '.join(missing)} on the PATH, which this account cannot install; as root on Debian or Ubuntu: "
            f"apt-get install {' '.join(packages)}\n"
        )
        return 2
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-q"], check=True, stdout=subprocess.DEVNULL, env=environment)
    subprocess.run(
        ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages], check=True, stdout=subprocess.DEVNULL, env=environment
    )
    return 0 if all(shutil.which(program) for program in missing) else 2


if __name__ == "__main__":
    sys.exit(main())
