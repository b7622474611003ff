"""Real servers of Kubernetes on loopback, asked whether they would create an object (dry run).

`CrdServer`: apiextensions-apiserver of Kubernetes 1.36 with the definitions of TFJob and JobSet;
strict fields, defaults, the definitions' own rules. `CoreServer`: kube-apiserver 1.20; too old to
know every field (those it drops), but it judges meaning: volumes, policies, quantities, names.
Both are built by scripts/kube_servers.sh, and need Debian's etcd.
"""

from __future__ import annotations

import copy
import http.client
import json
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.ports import free_ports

_WAIT = 90.0
_CORE = {
    "Pod": "/api/v1/namespaces/default/pods",
    "ConfigMap": "/api/v1/namespaces/default/configmaps",
    "PersistentVolumeClaim": "/api/v1/namespaces/default/persistentvolumeclaims",
    "ServiceAccount": "/api/v1/namespaces/default/serviceaccounts",
    "Job": "/apis/batch/v1/namespaces/default/jobs",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
}


class _Allows(BaseHTTPRequestHandler):
    """The main server of a cluster, as far as another asks it: all is allowed, all lists empty."""

    def do_POST(self) -> None:  # noqa: N802 - http.server's own name
        review = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self._say(201, review | {"status": {"allowed": True}})

    def do_GET(self) -> None:  # noqa: N802
        if "watch=" in self.path:
            time.sleep(3600)
        path = self.path.split("?")[0].split("/")
        kind = path[-1].rstrip("s").capitalize() + "List"
        version = "/".join(path[2:-1])
        metadata = {"resourceVersion": "1"}
        self._say(200, {"kind": kind, "apiVersion": version, "metadata": metadata, "items": []})

    def _say(self, code: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


class Server:
    """etcd and one server on it, for a `with` block. token: what requests are allowed by."""

    token = ""

    def __init__(self, binary: Path) -> None:
        self.binary = binary
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.processes: list[subprocess.Popen[bytes]] = []

    def options(self, folder: Path) -> list[str]:
        """The server's own options."""
        raise NotImplementedError

    def ready(self) -> None:
        """Wait until the server answers."""
        raise NotImplementedError

    def __enter__(self) -> Any:
        folder = Path(self.folder.name)
        client, peer, self.port = free_ports(3)
        store, other = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
        etcd = ["etcd", "--data-dir", str(folder / "etcd"), "--unsafe-no-fsync"]
        etcd += ["--listen-client-urls", store, "--advertise-client-urls", store]
        etcd += ["--listen-peer-urls", other, "--initial-advertise-peer-urls", other]
        etcd += ["--initial-cluster", f"default={other}"]
        server = [str(self.binary), "--etcd-servers", store, "--bind-address", "127.0.0.1"]
        server += ["--secure-port", str(self.port), "--cert-dir", str(folder / "certs")]
        server += self.options(folder)
        with (folder / "log").open("wb") as log:
            for command in (etcd, server):
                self.processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        try:
            self.ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            process.terminate()
            process.wait()
        self.folder.cleanup()

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        """Status and body of a request."""
        # The server makes its own certificate, and is on this machine.
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"}
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, {"message": text.decode(errors="replace")}

    def until(self, good: Callable[[], bool]) -> None:
        """Wait for a condition; the server must not end meanwhile."""
        deadline = time.monotonic() + _WAIT
        while True:
            try:
                if good():
                    return
            except OSError:
                pass
            dead = any(process.poll() is not None for process in self.processes)
            if dead or time.monotonic() > deadline:
                raise RuntimeError((Path(self.folder.name) / "log").read_text()[-3000:])
            time.sleep(0.2)

    def create(self, path: str, document: dict[str, Any]) -> str | None:
        """Why the server would not create the object; None where it would."""
        status, answer = self.request("POST", f"{path}?dryRun=All&fieldValidation=Strict", document)
        return None if status == 201 else str(answer.get("message"))


class CrdServer(Server):
    """For TFJob and JobSet. definitions: the custom resource definitions."""

    def __init__(self, binary: Path, definitions: list[dict[str, Any]]) -> None:
        super().__init__(binary)
        self.definitions = definitions
        self.paths: dict[str, str] = {}

    def options(self, folder: Path) -> list[str]:
        main = ThreadingHTTPServer(("127.0.0.1", 0), _Allows)
        main.daemon_threads = True
        threading.Thread(target=main.serve_forever, daemon=True).start()
        cluster = {"server": f"http://127.0.0.1:{main.server_port}"}
        config = {"apiVersion": "v1", "kind": "Config", "current-context": "c"}
        config |= {"clusters": [{"name": "c", "cluster": cluster}]}
        config |= {"users": [{"name": "u", "user": {}}]}
        config |= {"contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]}
        file = folder / "kubeconfig"
        file.write_text(yaml.dump(config))
        plugins = "NamespaceLifecycle,ValidatingAdmissionPolicy,MutatingAdmissionPolicy"
        plugins += ",ValidatingAdmissionWebhook,MutatingAdmissionWebhook"
        uses = ["--kubeconfig", "--authentication-kubeconfig", "--authorization-kubeconfig"]
        options = [word for use in uses for word in (use, str(file))]
        options += ["--authentication-skip-lookup", "--enable-priority-and-fairness=false"]
        return [*options, "--disable-admission-plugins", plugins]

    def ready(self) -> None:
        where = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        for definition in self.definitions:
            spec = definition["spec"]
            self.until(lambda d=definition: self.request("POST", where, d)[0] in (201, 409))
            group, version = spec["group"], spec["versions"][-1]["name"]
            path = f"/apis/{group}/{version}/namespaces/default/{spec['names']['plural']}"
            self.until(lambda p=path: self.request("GET", p)[0] == 200)
            self.paths[spec["names"]["kind"]] = path

    def refusals(self, document: dict[str, Any]) -> Iterator[str]:
        """What the server says against an object; nothing for other kinds."""
        if document["kind"] in self.paths:
            refusal = self.create(self.paths[document["kind"]], document)
            if refusal is not None:
                yield refusal


class CoreServer(Server):
    """For Pods, Jobs and the like, and what TFJobs and JobSets make of them."""

    token = "secret"

    def options(self, folder: Path) -> list[str]:
        key = folder / "key"
        command = ["openssl", "genrsa", "-out", str(key), "2048"]
        subprocess.run(command, check=True, capture_output=True)
        tokens = folder / "tokens"
        tokens.write_text(f"{self.token},admin,admin,system:masters\n")
        options = ["--advertise-address", "127.0.0.1", "--token-auth-file", str(tokens)]
        options += ["--authorization-mode", "AlwaysAllow", "--service-cluster-ip-range"]
        options += ["10.0.0.0/24", "--service-account-issuer", "https://local"]
        options += ["--service-account-signing-key-file", str(key)]
        options += ["--service-account-key-file", str(key)]
        return [*options, "--disable-admission-plugins", "ServiceAccount"]

    def ready(self) -> None:
        self.until(lambda: self.request("GET", "/api/v1/namespaces/default")[0] == 200)

    def refusals(self, document: dict[str, Any]) -> Iterator[str]:
        """What the server says against an object, or the pods and jobs inside."""
        for where, part in _core_parts(copy.deepcopy(document)):
            refusal = self.create(_CORE[part["kind"]], part)
            if refusal is not None:
                yield f"{where}{refusal}"


def _core_parts(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, object of Kubernetes' own) for everything in the document that is one."""
    kind, metadata = document["kind"], {"name": "x"}
    if kind in _CORE:
        yield "", document
    elif kind == "TFJob":
        for role, replica in document["spec"]["tfReplicaSpecs"].items():
            template = replica["template"]
            found = {"apiVersion": "v1", "kind": "Pod", "spec": template["spec"]}
            yield f"{role}: ", found | {"metadata": template.get("metadata", {}) | metadata}
    elif kind == "JobSet":
        for job in document["spec"]["replicatedJobs"]:
            found = {"apiVersion": "batch/v1", "kind": "Job", "spec": job["template"]["spec"]}
            yield f"{job['name']}: ", found | {"metadata": metadata}
