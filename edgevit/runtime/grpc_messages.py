"""Messages of the Open Inference Protocol for gRPC, made from a table of their fields.

The published definition (https://github.com/kserve/open-inference-protocol, open_inference_grpc.proto), as
far as it is served. A map is on the wire what a repeated message of a key and a value is, and is written so.
They have a pool of their own: a process may have a client's definition of the same messages.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

# Message: fields as "name type number", a star behind the type where there are several.
_TABLE = {
    "ServerLiveRequest": (),
    "ServerLiveResponse": ("live bool 1",),
    "ServerReadyRequest": (),
    "ServerReadyResponse": ("ready bool 1",),
    "ModelReadyRequest": ("name string 1", "version string 2"),
    "ModelReadyResponse": ("ready bool 1",),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": ("name string 1", "version string 2", "extensions string* 3"),
    "ModelMetadataRequest": ("name string 1", "version string 2"),
    "TensorMetadata": ("name string 1", "datatype string 2", "shape int64* 3"),
    "ModelMetadataResponse": (
        "name string 1", "versions string* 2", "platform string 3",
        "inputs TensorMetadata* 4", "outputs TensorMetadata* 5",
    ),
    "InferParameter": ("bool_param bool 1", "int64_param int64 2", "string_param string 3"),
    "Parameter": ("key string 1", "value InferParameter 2"),
    "InferTensorContents": ("fp32_contents float* 6",),
    "InferInputTensor": (
        "name string 1", "datatype string 2", "shape int64* 3", "parameters Parameter* 4",
        "contents InferTensorContents 5",
    ),
    "InferRequestedOutputTensor": ("name string 1", "parameters Parameter* 2"),
    "ModelInferRequest": (
        "model_name string 1", "model_version string 2", "id string 3", "parameters Parameter* 4",
        "inputs InferInputTensor* 5", "outputs InferRequestedOutputTensor* 6", "raw_input_contents bytes* 7",
    ),
    "InferOutputTensor": (
        "name string 1", "datatype string 2", "shape int64* 3", "parameters Parameter* 4",
    ),
    "ModelInferResponse": (
        "model_name string 1", "model_version string 2", "id string 3", "parameters Parameter* 4",
        "outputs InferOutputTensor* 5", "raw_output_contents bytes* 6",
    ),
}  # fmt: skip


def _file() -> Any:
    field = descriptor_pb2.FieldDescriptorProto
    scalars = {
        "bool": field.TYPE_BOOL,
        "string": field.TYPE_STRING,
        "bytes": field.TYPE_BYTES,
        "int64": field.TYPE_INT64,
        "float": field.TYPE_FLOAT,
    }
    file = descriptor_pb2.FileDescriptorProto(
        name="open_inference_grpc.proto", package=PACKAGE, syntax="proto3"
    )
    for name, lines in _TABLE.items():
        message = file.message_type.add(name=name)
        for line in lines:
            called, kind, number = line.split()
            label = field.LABEL_REPEATED if kind.endswith("*") else field.LABEL_OPTIONAL
            added = message.field.add(name=called, number=int(number), label=label)
            kind = kind.removesuffix("*")
            if kind in scalars:
                added.type = scalars[kind]
            else:
                added.type, added.type_name = field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    return file


def _messages() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file())
    find = pool.FindMessageTypeByName
    return {name: message_factory.GetMessageClass(find(f"{PACKAGE}.{name}")) for name in _TABLE}


#: Classes of the messages, by name.
MESSAGES = _messages()
