"""Where a client of the Kubernetes API finds its address and its credentials: the service account of a pod, or a kubeconfig.

`Credentials.open_client` reads them anew each time: the kubelet replaces a pod's token about hourly, a cloud login rewrites the kubeconfig
or gives a new answer when its plugin is asked again. Reading and the certificate handling are those of the `kubernetes` package.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from kubernetes import config
from kubernetes.client import ApiClient, Configuration
from kubernetes.config.incluster_config import InClusterConfigLoader

from stablerep.errors import ConfigError

SERVICE_ACCOUNT_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True)
class Credentials:
    """`origin` says in messages where they come from; `load` fills a configuration of the client with what is there now."""

    origin: str
    namespace: str
    load: Callable[[Configuration], None]

    def open_client(self) -> ApiClient:
        """A client with the credentials as they are now.

        Raises:
            ConfigError: they cannot be read.
        """
        configuration = Configuration()
        try:
            self.load(configuration)
        except (config.ConfigException, OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
            raise _unreadable(self.origin, error) from error
        return ApiClient(configuration)


def find_credentials(kubeconfig: str = "", service_account_folder: Path = SERVICE_ACCOUNT_FOLDER) -> Credentials:
    """Credentials of this process: a kubeconfig that is named, else the pod's service account, else KUBECONFIG or ~/.kube/config.

    Args:
        kubeconfig: files, separated as in KUBECONFIG; the current context counts.
        service_account_folder: holds token, ca.crt and namespace; used where KUBERNETES_SERVICE_HOST is set, as in every pod.

    Raises:
        ConfigError: there are none, or the kubeconfig cannot be read.
    """
    is_in_pod = (service_account_folder / "token").is_file() and bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
    if not kubeconfig and is_in_pod:
        return _of_pod(service_account_folder)
    files = kubeconfig or os.environ.get("KUBECONFIG", "") or str(Path.home() / ".kube" / "config")
    if not any(Path(name).expanduser().is_file() for name in files.split(os.pathsep) if name):
        raise ConfigError(
            f"no credentials for a Kubernetes API server: expected a token in {service_account_folder} and KUBERNETES_SERVICE_HOST, as in "
            f"a pod, or a kubeconfig; found neither, and no file {files}; in a pod set serviceAccountName and "
            "automountServiceAccountToken: true, elsewhere set KUBECONFIG to your kubeconfig"
        )
    return _of_kubeconfig(files)


def _of_pod(folder: Path) -> Credentials:
    namespace_file = folder / "namespace"
    namespace = namespace_file.read_text(encoding="utf-8").strip() if namespace_file.is_file() else ""

    def load(configuration: Configuration) -> None:
        InClusterConfigLoader(str(folder / "token"), str(folder / "ca.crt"), environ=os.environ).load_and_set(configuration)

    return Credentials(f"the service account token in {folder}", namespace or "default", load)


def _of_kubeconfig(files: str) -> Credentials:
    origin = f"kubeconfig {files}"
    try:
        _, current = cast("tuple[Any, Any]", config.list_kube_config_contexts(config_file=files))
        context = cast("dict[str, Any]", current["context"])
        namespace = str(context.get("namespace") or "default")
    except (config.ConfigException, OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable(origin, error) from error

    def load(configuration: Configuration) -> None:
        config.load_kube_config(config_file=files, client_configuration=configuration, persist_config=False)

    return Credentials(f"{origin}, context {current['name']}", namespace, load)


def _unreadable(origin: str, error: Exception) -> ConfigError:
    problem = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return ConfigError(
        f"credentials for the Kubernetes API server cannot be read from {origin}: {problem}; "
        "check it with `kubectl config view --minify`, or in a pod that its service account volume is mounted whole"
    )
