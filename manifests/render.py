"""Render and check what `kubectl apply -k` would send: `python -m manifests.render`; with `images`, only make components/images anew.

Writes build/manifests/<name>.yaml: every overlay, everything cluster-scoped, single-user, and each component alone on a bare namespace.
Checks built-in kinds against Kubernetes' schemas, unknown fields included, and workloads, runtimes too, against checkov's policies
(checkov.yaml says which are not ours, and why). Custom resources are checked by whoever has their CRDs. No network, no cluster.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from manifests.pods import Document, pods_of

PROJECT = Path(__file__).resolve().parents[1]
MANIFESTS = PROJECT / "manifests"
DIGESTS = PROJECT / "images" / "images.lock"
BUILD = PROJECT / "build" / "manifests"
KUBERNETES_VERSIONS = ("1.32.0", "1.37.0")  # the oldest that is supported, and the newest that the validator knows
BASES = ("tenancy", "base", "runtimes", "monitoring")


class ManifestError(Exception):
    """A tool is missing or refused; the message is what it said."""


def folders() -> dict[str, Path]:
    """Everything that can be applied, by the name of its rendered file; components are wrapped in build/."""
    found = {path.parent.name: path.parent for path in MANIFESTS.glob("overlays/*/kustomization.yaml")}
    found |= {f"cluster-{path.parent.name}": path.parent for path in MANIFESTS.glob("cluster/*/kustomization.yaml")}
    found |= {f"component-{path.parent.name}": _alone(path.parent) for path in MANIFESTS.glob("components/*/kustomization.yaml")}
    single_user = [path.parent for path in MANIFESTS.glob("single-user/*/kustomization.yaml") if path.parent.name != "base"]
    return dict(sorted((found | {f"single-user-{folder.name}": folder for folder in single_user}).items()))


def render(folder: Path) -> str:
    """The YAML of one kustomization.

    Raises:
        ManifestError: kustomize refuses it.
    """
    return _run(_tool("kubectl"), "kustomize", str(folder))


def images_component(lock: Path = DIGESTS) -> str:
    """components/images/kustomization.yaml as images.lock has it."""
    named = {role: image.partition("@") for role, image in json.loads(lock.read_text(encoding="utf-8")).items()}
    lines = [f"  - {{name: {name}, digest: {digest}}}" for _, (name, _, digest) in sorted(named.items())]
    return (
        "# Made from images/images.lock by `make compile`. To pull from a registry, add newName to an image in an overlay of your own:\n"
        "# images: [{name: stablerep/train, newName: registry.example.org/team/stablerep/train}]\n"
        "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nimages:\n" + "\n".join(lines) + "\n"
    )


def write_images() -> Path:
    """Bring components/images up to date with images.lock."""
    target = MANIFESTS / "components" / "images" / "kustomization.yaml"
    target.write_text(images_component(), encoding="utf-8")
    return target


def render_all(build: Path = BUILD) -> dict[str, Path]:
    """Render everything into `build`; what was there before goes."""
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir(parents=True)
    with ThreadPoolExecutor(4) as pool:
        texts = dict(zip(names := folders(), pool.map(render, names.values()), strict=True))
    written = {name: build / f"{name}.yaml" for name in texts}
    for name, path in written.items():
        path.write_text(texts[name], encoding="utf-8")
    return written


def distinct(paths: Iterable[Path], target: Path) -> Path:
    """Every document once, as most are in many overlays, and the pods of runtimes, which checkov knows nothing of, as plain workloads."""
    documents = [document for path in paths for document in yaml.load_all(path.read_text(encoding="utf-8"), yaml.CSafeLoader)]
    documents += [workload for document in documents for workload in _workloads(document)]
    once = {json.dumps(document, sort_keys=True): document for document in documents}
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(yaml.dump_all(once.values(), Dumper=yaml.CSafeDumper), encoding="utf-8")
    return target


def schema_problems(path: Path, versions: Iterable[str] = KUBERNETES_VERSIONS) -> list[str]:
    """What Kubernetes' own schemas say about the built-in kinds in a file."""
    lines: list[str] = []
    for version in versions:
        command = [_tool("kubernetes-validate"), "--strict", "--quiet", "--no-warn", "-k", version, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines += [f"{version}: {line}" for line in (done.stdout + done.stderr).splitlines() if line] if done.returncode else []
    return lines


def policy_problems(path: Path) -> list[str]:
    """Checkov's findings in a file, one line each; the justified ones are left out.

    Raises:
        ManifestError: it did not come to an end.
    """
    arguments = ["--config-file", str(MANIFESTS / "checkov.yaml"), "--file", str(path), "--output", "json"]
    done = subprocess.run([_tool("checkov"), *arguments], capture_output=True, text=True, check=False, cwd=PROJECT)
    if not done.stdout.strip():
        raise ManifestError(done.stderr.strip() or "checkov said nothing")
    report = json.loads(done.stdout)
    failed = [check for part in (report if isinstance(report, list) else [report]) for check in part["results"]["failed_checks"]]
    return sorted({f"{check['check_id']} {check['resource']}: {check['check_name']}" for check in failed})


def main(arguments: list[str]) -> int:
    """Render, check, print a table; the exit code is the number of kinds of problems."""
    if arguments == ["images"]:
        _say(f"wrote {write_images().relative_to(PROJECT)}")
        return 0
    written = render_all()
    for name, path in written.items():
        kinds = [document["kind"] for document in yaml.load_all(path.read_text(encoding="utf-8"), yaml.CSafeLoader)]
        _say(f"{name:24} {len(kinds):3} objects  {len(set(kinds)):2} kinds")
    once = distinct(written.values(), BUILD / "distinct" / "all.yaml")
    problems = {"schemas": schema_problems(once), "checkov": policy_problems(once)}
    for check, lines in problems.items():
        _say(f"{check:24} {'no problems' if not lines else f'{len(lines)} problems'}")
        for line in lines:
            _say(f"  {line}")
    return sum(bool(lines) for lines in problems.values())


def _alone(component: Path) -> Path:
    """A kustomization of one component on a bare namespace; images are pinned in it, as in every overlay."""
    folder = PROJECT / "build" / "components" / component.name
    folder.mkdir(parents=True, exist_ok=True)
    up = "../" * len(folder.relative_to(PROJECT).parts) + "manifests"
    pinned = {f"{up}/components/{name}" for name in (component.name, "images")}
    content = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "stablerep",
        "resources": [f"{up}/{base}" for base in BASES],
        "components": sorted(pinned),
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


def _workloads(document: Document) -> list[Document]:
    """The pods of a runtime as they would be made: a Job for training, a Pod for serving."""
    if not document["kind"].endswith("Runtime"):
        return []
    is_training = document["kind"] == "TrainingRuntime"
    metadata = {"name": document["metadata"]["name"], "namespace": document["metadata"]["namespace"]}
    # the InferenceService brings these; see stablerep/integrations/kserve_manifest.py
    brought = {
        "automountServiceAccountToken": False,
        "serviceAccountName": "stablerep-serve",
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    fields = ("containers", "volumes", "securityContext", "serviceAccountName", "automountServiceAccountToken", "restartPolicy")
    specs = [
        {field: pod.spec[field] for field in fields if field in pod.spec} | ({} if is_training else brought) for pod in pods_of(document)
    ]
    if is_training:
        return [{"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": {"spec": spec}}} for spec in specs]
    return [{"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec} for spec in specs]


def _tool(name: str) -> str:
    """A program beside this interpreter, in .venv/<name>/bin, or on PATH.

    Raises:
        ManifestError: there is none.
    """
    places = (Path(sys.executable).parent, PROJECT / ".venv" / name / "bin")
    found = next((str(place / name) for place in places if (place / name).exists()), shutil.which(name))
    if found is None:
        raise ManifestError(f"expected {name} in .venv, found none; run `make manifests`, which installs it")
    return found


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ManifestError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ManifestError as error:
        _say(f"manifests: {error}")
        sys.exit(3)
