"""A client of CRI, for as much as the tests need: kubelet's part against containerd.

Usage: cri.py SOCKET run-pod|start|exec-sync|remove-pod JSON

Messages are written by the numbers of their fields, as api.proto of k8s.io/cri-api (runtime.v1) has them, so that no
generated code is needed.
"""

import json
import sys

import grpc


def varint(number):
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def message(fields):
    """Encodes {number: value}: numbers, texts, bytes, messages, lists of these."""
    out = b""
    for number, value in fields.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, bool) or isinstance(one, int):
                out += varint(number << 3) + varint(int(one))
                continue
            data = message(one) if isinstance(one, dict) else one.encode() if isinstance(one, str) else one
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def parse(data):
    """Decodes into {number: value}, texts and messages as bytes; of a repeated field the last."""

    def number():
        nonlocal data
        value = shift = 0
        while True:
            byte, data = data[0], data[1:]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    out = {}
    while data:
        key = number()
        if key & 7 == 2:
            size = number()
            out[key >> 3], data = data[:size], data[size:]
        else:
            out[key >> 3] = number()
    return out


def call(channel, method, fields):
    ask = channel.unary_unary(
        "/runtime.v1.RuntimeService/" + method, request_serializer=message, response_deserializer=parse
    )
    return ask(fields, timeout=60)


def main():
    socket, what, text = sys.argv[1:]
    asked = json.loads(text)
    with grpc.insecure_channel("unix://" + socket) as channel:
        if what == "run-pod":
            namespaces = {1: 2, 2: 0 if asked["shared_pid"] else 1, 3: 0}  # network NODE, pid POD or CONTAINER
            config = {
                1: {1: asked["name"], 2: asked["name"] + "-uid", 3: "default", 4: 0},
                7: [{1: key, 2: value} for key, value in asked["annotations"].items()],
                8: {1: asked["cgroup_parent"], 2: {1: namespaces}},
            }
            print(call(channel, "RunPodSandbox", {1: config})[1].decode())
        elif what == "start":
            namespaces = {1: 2, 2: 0 if asked["shared_pid"] else 1, 3: 0}
            resources = {1: 100000, 2: int(asked["cpus"] * 100000), 4: asked["memory"]}
            config = {
                1: {1: asked["name"], 2: 0},
                2: {1: asked["image"]},
                3: asked["command"],
                15: {1: resources, 2: {3: namespaces}},
            }
            pod = {
                1: {1: asked["pod_name"], 2: asked["pod_name"] + "-uid", 3: "default", 4: 0},
                8: {1: asked["cgroup_parent"], 2: {1: namespaces}},
            }
            container = call(channel, "CreateContainer", {1: asked["pod"], 2: config, 3: pod})[1].decode()
            call(channel, "StartContainer", {1: container})
            print(container)
        elif what == "exec-sync":
            answer = call(channel, "ExecSync", {1: asked["container"], 2: asked["command"], 3: 60})
            sys.stdout.buffer.write(answer.get(1, b""))
            sys.stderr.buffer.write(answer.get(2, b""))
            sys.exit(answer.get(3, 0))
        elif what == "remove-pod":
            call(channel, "StopPodSandbox", {1: asked["pod"]})
            call(channel, "RemovePodSandbox", {1: asked["pod"]})
        elif what == "version":
            print(call(channel, "Version", {})[3].decode())


main()
